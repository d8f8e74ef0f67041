# SPDX-License-Identifier: Apache-2.0
"""The split virtqueue (VIRTIO 1.3, 2.7), device side. Every index, address and length is the guest's."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from gz.vmm.memory import BadAddress, GuestMemory

NEXT, WRITE, INDIRECT = 1, 2, 4
"""Descriptor flags (2.7.5)."""
NO_NOTIFY = 1
"""used.flags: the driver need not notify (2.7.10)."""
NO_INTERRUPT = 1
"""available.flags: the device need not interrupt (2.7.7)."""
INDIRECT_MAX = 1024
"""Entries of an indirect table we accept, as QEMU does; the queue size bounds every other chain."""

_DESCRIPTOR = struct.Struct("<QIHH")


class QueueBroken(Exception):
    """The driver broke the rules of the ring; only a reset of the device helps."""


class Chain:
    """Buffers of one request: first those the driver filled, then those the device fills. `head` names it."""

    __slots__ = ("head", "readable", "writable")

    def __init__(self, head: int, readable: list[memoryview], writable: list[memoryview]) -> None:
        self.head = head
        self.readable = readable
        self.writable = writable

    @property
    def room(self) -> int:
        """Bytes the device may write."""
        return sum(map(len, self.writable))

    def read(self, limit: int) -> bytes:
        """The first bytes the driver filled, at most `limit`."""
        return b"".join(cut(self.readable, 0, limit))

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Fills the device's buffers from the front; gives the number of bytes that fitted."""
        written = 0
        for buffer in self.writable:
            part = data[written : written + len(buffer)]
            if not part:
                break
            buffer[: len(part)] = part
            written += len(part)
        return written


def cut(buffers: Iterable[memoryview], start: int, length: int) -> list[memoryview]:
    """The bytes start … start + length of a list of buffers, as buffers; fewer if they end before."""
    result = []
    for buffer in buffers:
        if length <= 0:
            break
        if start >= len(buffer):
            start -= len(buffer)
            continue
        part = buffer[start : start + length]
        start = 0
        length -= len(part)
        result.append(part)
    return result


class Queue:
    """One queue. The transport sets `size` and the three addresses, then calls `enable`.

    Only one thread at a time may use an enabled queue."""

    def __init__(self, memory: GuestMemory, size_max: int) -> None:
        self.size_max = size_max
        self._memory = memory
        self._barrier = memory.barrier
        self.reset()

    def reset(self) -> None:
        self.size = self.size_max
        self.descriptors_at = 0
        self.available_at = 0
        self.used_at = 0
        self.disable()

    def disable(self) -> None:
        """Lets go of guest memory."""
        self.ready = False
        self._indirect = False
        self._event_index = False
        self._next = 0
        self._used_index = 0
        self._published = 0
        empty = memoryview(b"")
        self._descriptors = self._available = self._used = self._used_ring = empty

    def enable(self, indirect: bool, event_index: bool) -> None:
        """Starts at index 0 with the given features. QueueBroken if size or addresses are not usable."""
        size = self.size
        if not 0 < size <= self.size_max or size & (size - 1):
            raise QueueBroken(f"queue size {size} is not a power of two up to {self.size_max}")
        for what, address, alignment in (
            ("descriptor table", self.descriptors_at, 16),
            ("available ring", self.available_at, 2),
            ("used ring", self.used_at, 4),
        ):
            if address % alignment:
                raise QueueBroken(f"{what} at {address:#x} is not aligned to {alignment}")
        try:
            self._descriptors = self._memory.at(self.descriptors_at, 16 * size)
            self._available = self._memory.at(self.available_at, 6 + 2 * size).cast("H")
            used = self._memory.at(self.used_at, 6 + 8 * size)
        except BadAddress as error:
            self.disable()
            raise QueueBroken(f"rings: {error}") from None
        self._used = used.cast("H")
        self._used_ring = used[4 : 4 + 8 * size].cast("I")
        self._indirect = indirect
        self._event_index = event_index
        self._next = self._used_index = self._published = 0
        self.ready = True

    @property
    def pending(self) -> bool:
        """There are requests to pop."""
        return self.ready and self._available[1] != self._next

    def pop(self) -> Chain | None:
        """The next request of the driver, None if there is none. QueueBroken if it cannot be one."""
        ahead = (self._available[1] - self._next) & 0xFFFF
        if ahead == 0:
            return None
        if ahead > self.size:
            raise QueueBroken(f"available index is {ahead} ahead in a queue of {self.size}")
        self._barrier()  # the index before the entry it covers (2.7.13.3.1)
        head = self._available[2 + (self._next & (self.size - 1))]
        chain = self._walk(head)
        self._next = (self._next + 1) & 0xFFFF
        return chain

    def undo_pop(self) -> None:
        """Leaves the request that was popped last in the ring; the next pop gives it again."""
        self._next = (self._next - 1) & 0xFFFF

    def _walk(self, head: int) -> Chain:
        at = self._memory.at
        unpack = _DESCRIPTOR.unpack_from
        readable: list[memoryview] = []
        writable: list[memoryview] = []
        table, count = self._descriptors, self.size
        index, seen, nested = head, 0, False
        while True:
            if index >= count:
                raise QueueBroken(f"descriptor {index} of a table of {count}")
            seen += 1
            if seen > count:
                raise QueueBroken(f"the chain at descriptor {head} does not end")
            address, length, flags, following = unpack(table, 16 * index)
            try:
                if flags & INDIRECT:
                    if nested or not self._indirect or flags & NEXT:
                        raise QueueBroken(f"indirect descriptor {index} where none may be")
                    if length == 0 or length % 16 or length > 16 * INDIRECT_MAX:
                        raise QueueBroken(f"indirect table of {length} bytes")
                    table, count = at(address, length), length // 16
                    index, seen, nested = 0, 0, True
                    continue
                if length:
                    buffer = at(address, length)
                    if flags & WRITE:
                        writable.append(buffer)
                    elif writable:
                        raise QueueBroken(f"descriptor {index} is for reading behind one for writing")
                    else:
                        readable.append(buffer)
            except BadAddress as error:
                raise QueueBroken(f"descriptor {index}: {error}") from None
            if not flags & NEXT:
                return Chain(head, readable, writable)
            index = following

    def push(self, chain: Chain, written: int) -> None:
        """Hands a request back with the number of bytes written to it; `publish` makes it visible."""
        slot = (self._used_index & (self.size - 1)) * 2
        self._used_ring[slot] = chain.head
        self._used_ring[slot + 1] = written
        self._used_index = (self._used_index + 1) & 0xFFFF

    def publish(self) -> bool:
        """Shows the driver what was pushed. True if it wants an interrupt for it."""
        old, new = self._published, self._used_index
        if old == new:
            return False
        self._barrier()  # entries before the index (2.7.8.2)
        self._used[1] = new
        self._published = new
        self._barrier()  # the index before looking whether the driver sleeps (2.7.7.2, 2.7.10)
        if self._event_index:
            wanted = self._available[2 + self.size]
            return (new - wanted - 1) & 0xFFFF < (new - old) & 0xFFFF
        return not self._available[0] & NO_INTERRUPT

    def quiet(self) -> None:
        """Asks the driver not to notify while the device is looking anyway."""
        if not self._event_index:
            self._used[0] = NO_NOTIFY

    def listen(self) -> bool:
        """Asks for notifications again. True if requests came in meanwhile: look once more."""
        if self._event_index:
            self._used[2 + 4 * self.size] = self._next
        else:
            self._used[0] = 0
        self._barrier()  # the wish before the last look at the index (2.7.10)
        return self._available[1] != self._next
