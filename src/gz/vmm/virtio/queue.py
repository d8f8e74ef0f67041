# SPDX-License-Identifier: Apache-2.0
"""The split virtqueue (VIRTIO 1.3, 2.7), device side, as devices use it. What touches the rings is compiled: `ring`."""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from gz.bits.view import address_of
from gz.driver.interface import DriverError
from gz.vmm.memory import BadAddress, GuestMemory
from gz.vmm.virtio.shared import Buffer, Fault, Found, Ring

LIBRARY = Path(__file__).with_name("_ring.so")
"""Compiled from `gz.vmm.virtio.ring`."""

REASONS = {
    Fault.AHEAD: "available index is {} ahead in a queue of {}",
    Fault.OUTSIDE: "descriptor {} of a table of {}",
    Fault.ENDLESS: "the chain at descriptor {} does not end",
    Fault.INDIRECT: "indirect descriptor {} where none may be",
    Fault.TABLE: "indirect table of {} bytes",
    Fault.ORDER: "descriptor {} is for reading behind one for writing",
    Fault.ADDRESS: "descriptor {}: {} bytes at {:#x} are not guest memory",
}

REQUEST = int(Found.REQUEST)
FAULT = int(Found.FAULT)
_request = struct.Struct("<QHHH").unpack_from
"""room, head, readable and writable of a Ring; reading them one by one takes as many instructions for each."""
_REQUEST_AT = Ring.offset("room")
_buffers: Callable[[memoryview], Iterator[tuple[int, int, int]]] = struct.Struct("<QII").iter_unpack
_BUFFER_SIZE = Buffer.size
_BUFFERS_AT = Ring.offset("buffers")
assert [Ring.offset(name) - _REQUEST_AT for name in ("head", "readable", "writable")] == [8, 10, 12]
assert [Buffer.offset(name) for name in ("offset", "region", "length")] == [0, 8, 12]


class QueueBroken(Exception):
    """The driver broke the rules of the ring; only a reset of the device helps."""


@functools.cache
def compiled(library: Path) -> ctypes.PyDLL:
    """The functions of `ring`; other threads wait meanwhile, as these calls are over at once. DriverError."""
    if not library.exists():
        raise DriverError(f"{library} is missing: the installation is incomplete")
    return ctypes.PyDLL(str(library))


class Chain:
    """Buffers of one request: first those the driver filled, then those the device fills. `head` names it,
    `room` is how many bytes the device may write."""

    __slots__ = ("head", "readable", "room", "writable")

    def __init__(self, head: int, readable: list[memoryview], writable: list[memoryview], room: int) -> None:
        self.head = head
        self.readable = readable
        self.writable = writable
        self.room = room

    def read(self, limit: int) -> bytes:
        """The first bytes the driver filled, at most `limit`."""
        readable = self.readable
        if readable and len(readable[0]) >= limit:
            return bytes(readable[0][:limit])
        return b"".join(cut(readable, 0, limit))

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
    result: list[memoryview] = []
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
        self._functions = functions = compiled(LIBRARY)
        self._pop, self._push, self._pending = functions.ring_pop, functions.ring_push, functions.ring_pending
        self._publish, self._settle, self._quiet = functions.ring_publish, functions.ring_settle, functions.ring_quiet
        area = (ctypes.c_uint64 * (Ring.size // 8))()
        self._bytes = memoryview(area).cast("B")
        self._ring = Ring.view(self._bytes)
        self._at = ctypes.byref(area)  # passed faster than a number
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
        self._event_index = False
        self._bytes[:_BUFFERS_AT] = bytes(_BUFFERS_AT)
        self._kept: list[memoryview] = []
        """The ring's memory stays where it is as long as there are these."""

    def close(self) -> None:
        """Gives back what it needs; it is not used again."""

    def enable(self, indirect: bool, event_index: bool) -> None:
        """Starts at index 0 with the given features. QueueBroken if size or addresses are not usable."""
        size = self.size
        if not 0 < size <= self.size_max or size & (size - 1):
            raise QueueBroken(f"queue size {size} is not a power of two up to {self.size_max}")
        kept: list[memoryview] = []
        for what, address, alignment, length in (
            ("descriptor table", self.descriptors_at, 16, 16 * size),
            ("available ring", self.available_at, 2, 6 + 2 * size),
            ("used ring", self.used_at, 4, 6 + 8 * size),
        ):
            if address % alignment:
                raise QueueBroken(f"{what} at {address:#x} is not aligned to {alignment}")
            try:
                kept.append(self._memory.at(address, length))
            except BadAddress as error:
                raise QueueBroken(f"{what}: {error}") from None
        self.disable()
        ring = self._ring
        ring.descriptors, ring.available, ring.used = map(address_of, kept)
        ring.regions = self._memory.table
        ring.size, ring.indirect, ring.event_index = size, indirect, event_index
        self._kept = kept
        self._event_index = event_index
        self.ready = True

    @property
    def pending(self) -> bool:
        """There are requests to pop."""
        return self.ready and self._pending(self._at) != 0

    def pop(self) -> Chain | None:
        """The next request of the driver, None if there is none. QueueBroken if it cannot be one."""
        found = self._pop(self._at)
        if found == REQUEST:
            state, views = self._bytes, self._memory.views
            room, head, readable, writable = _request(state, _REQUEST_AT)
            filled: list[memoryview] = []
            empty: list[memoryview] = []
            buffers = filled if readable else empty
            # No comprehension, which is a call: this is done for every request.
            for at, region, length in _buffers(state[_BUFFERS_AT : _BUFFERS_AT + _BUFFER_SIZE * (readable + writable)]):
                buffers.append(views[region][at : at + length])
                if len(filled) == readable:
                    buffers = empty
            return Chain(head, filled, empty, room)
        if found == FAULT:
            raise QueueBroken(REASONS[Fault(self._ring.fault)].format(*self._ring.details))
        return None

    def undo_pop(self) -> None:
        """Leaves the request that was popped last in the ring; the next pop gives it again."""
        self._ring.next = (self._ring.next - 1) & 0xFFFF

    def push(self, chain: Chain, written: int) -> None:
        """Hands a request back with the number of bytes written to it; `publish` makes it visible."""
        self._push(self._at, chain.head, written)

    def publish(self) -> bool:
        """Shows the driver what was pushed. True if it wants an interrupt for it."""
        return self._publish(self._at) != 0

    def quiet(self) -> None:
        """Asks the driver not to notify while the device is looking anyway."""
        if not self._event_index:  # with it the driver is asked for each notification anew
            self._quiet(self._at)

    def settle(self) -> int:
        """Shows the driver what was pushed, and asks it to notify again. Gives INTERRUPT if it wants one, and
        MORE if requests came in meanwhile: look once more."""
        return self._settle(self._at)
