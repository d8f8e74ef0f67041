# SPDX-License-Identifier: Apache-2.0
"""The split ring's rules in plain Python (VIRTIO 1.3, 2.7), for a ring that nobody changes meanwhile."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from ring import Ring

from gz.vmm.memory import BadAddress
from gz.vmm.virtio.ring import INDIRECT, NEXT, WRITE
from gz.vmm.virtio.shared import INDIRECT_MAX

Request = tuple[int, list[tuple[int, int]], list[tuple[int, int]]]
"""Head, and (guest-physical address, length) of the buffers that the driver filled and of those to be filled."""


class Broken(Exception):
    """The driver broke the rules; the text is the device's."""


@dataclass
class QueueModel:
    """What a device makes of `ring`."""

    ring: Ring
    indirect: bool
    event_index: bool
    next: int = 0
    used: int = 0
    published: int = 0

    def pop(self) -> Request | None:
        (index,) = self.ring.peek(self.ring.available_at + 2, "H")
        ahead = (index - self.next) & 0xFFFF
        if ahead == 0:
            return None
        if ahead > self.ring.size:
            raise Broken(f"available index is {ahead} ahead in a queue of {self.ring.size}")
        (head,) = self.ring.peek(self.ring.available_at + 4 + 2 * (self.next % self.ring.size), "H")
        request = self._walk(head)
        self.next = (self.next + 1) & 0xFFFF
        return request

    def _walk(self, head: int) -> Request:
        at = self.ring.memory.at
        readable: list[tuple[int, int]] = []
        writable: list[tuple[int, int]] = []
        table = at(self.ring.descriptors_at, 16 * self.ring.size)
        index, left, nested = head, self.ring.size, False
        while True:
            count = len(table) // 16
            if index >= count:
                raise Broken(f"descriptor {index} of a table of {count}")
            if left == 0:
                raise Broken(f"the chain at descriptor {head} does not end")
            left -= 1
            address, length, flags, following = struct.unpack_from("<QIHH", table, 16 * index)
            if flags & INDIRECT and (nested or not self.indirect or flags & NEXT):
                raise Broken(f"indirect descriptor {index} where none may be")
            if flags & INDIRECT and (length % 16 or not 0 < length <= 16 * INDIRECT_MAX):
                raise Broken(f"indirect table of {length} bytes")
            try:
                buffer = at(address, length) if length else memoryview(b"")
            except BadAddress as error:
                raise Broken(f"descriptor {index}: {error}") from None
            if flags & INDIRECT:
                table, index, left, nested = buffer, 0, length // 16, True
                continue
            if length:
                if writable and not flags & WRITE:
                    raise Broken(f"descriptor {index} is for reading behind one for writing")
                if len(readable) + len(writable) == INDIRECT_MAX:
                    raise Broken(f"the chain at descriptor {head} does not end")
                (writable if flags & WRITE else readable).append((address, length))
            if not flags & NEXT:
                return head, readable, writable
            index = following

    def push(self, head: int, written: int) -> None:
        self.ring.poke(self.ring.used_at + 4 + 8 * (self.used % self.ring.size), "II", head, written)
        self.used = (self.used + 1) & 0xFFFF

    def publish(self) -> bool:
        """Whether the driver wants an interrupt."""
        news = {(self.published + i) & 0xFFFF for i in range((self.used - self.published) & 0xFFFF)}
        self.ring.poke(self.ring.used_at + 2, "H", self.used)
        self.published = self.used
        if self.event_index:
            return self.ring.peek(self.ring.available_at + 4 + 2 * self.ring.size, "H")[0] in news
        return bool(news) and not self.ring.peek(self.ring.available_at, "H")[0] & 1

    def settle(self) -> tuple[bool, bool]:
        """Whether it wants one, and whether there are more requests."""
        wanted = self.publish()
        if self.event_index:
            self.ring.poke(self.ring.used_at + 4 + 8 * self.ring.size, "H", self.next)
        else:
            self.ring.poke(self.ring.used_at, "H", 0)
        return wanted, self.ring.peek(self.ring.available_at + 2, "H")[0] != self.next
