# SPDX-License-Identifier: Apache-2.0
"""A queue of a guest that may hide its memory at any time: nothing of it is touched but by the kernel.

A load from a page that a protected guest has hidden ends this process; a system call that copies from or to it gives
EFAULT (docs/security.md). So rings and requests are copied between the guest and a file in memory, of which this
process has a mapping, and the devices see the mapping only.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Sequence

from gz.bits.view import address_of
from gz.vmm.memory import GuestMemory
from gz.vmm.virtio.queue import Chain, Queue, QueueBroken
from gz.vmm.virtio.shared import INTERRUPT, MORE

REQUEST_MAX = 0x40_0000
"""Bytes of one request that are copied; Linux's greatest is 1.25 MiB."""
_RINGS_MAX = 0x1_0000
"""Room for the rings in front of the request."""

Move = Callable[[int, Sequence[memoryview], int], int]
TO_GUEST: Move = os.preadv
FROM_GUEST: Move = os.pwritev


class Piece:
    """A part of a ring: its bytes in the guest, and where the window has them."""

    def __init__(self, what: str, guest: memoryview, at: int) -> None:
        self.what = what
        self.guest = [guest]
        self.at = at
        self.size = len(guest)


class BounceQueue(Queue):
    """A queue as :class:`Queue`, with one request at a time: popped, then pushed or left."""

    def __init__(self, memory: GuestMemory, size_max: int) -> None:
        self._file = os.memfd_create("queue")
        os.ftruncate(self._file, _RINGS_MAX + REQUEST_MAX)
        self._window = memoryview(mmap.mmap(self._file, 0))
        super().__init__(memory, size_max)
        self._fence = self._functions.ring_fence

    def close(self) -> None:
        os.close(self._file)

    def enable(self, indirect: bool, event_index: bool) -> None:
        super().enable(False, event_index)  # such a table could lie anywhere, and is not offered
        descriptors, available, used = self._kept
        size, ring = self.size, self._ring
        self._window[:_RINGS_MAX] = bytes(_RINGS_MAX)
        at_available = len(descriptors)
        at_used = at_available + len(available) + 2  # a multiple of 4
        ring.descriptors = address_of(self._window)
        ring.available = ring.descriptors + at_available
        ring.used = ring.descriptors + at_used
        entries, event = 4, 4 + 2 * size
        self._descriptors = Piece("descriptor table", descriptors, 0)
        self._offered = Piece("available ring", available[2:4], at_available + 2)
        self._heads = Piece("available ring", available[entries:event], at_available + entries)
        begin = event if event_index else 0
        self._wish = Piece("available ring", available[begin : begin + 2], at_available + begin)
        event = 4 + 8 * size
        self._done = Piece("used ring", used[entries:event], at_used + entries)
        self._served = Piece("used ring", used[2:4], at_used + 2)
        begin = event if event_index else 0
        self._own_wish = Piece("used ring", used[begin : begin + 2], at_used + begin)
        self._available_index = self._window[at_available + 2 : at_available + 4].cast("H")
        self._used_index = self._window[at_used + 2 : at_used + 4].cast("H")
        self._copied = 0
        """The available index up to which heads and descriptors were copied."""
        self._room: list[memoryview] = []
        """The guest's buffers that the request popped last is to fill."""

    @property
    def pending(self) -> bool:
        if not self.ready:
            return False
        if not super().pending:
            self._copy(FROM_GUEST, self._offered)
        return super().pending

    def pop(self) -> Chain | None:
        if self._ring.next == self._copied:
            self._copy(FROM_GUEST, self._offered)
            self._fence()  # the index before the entries it covers (2.7.13.3.1)
            self._copy(FROM_GUEST, self._heads)
            self._copy(FROM_GUEST, self._descriptors)
            self._copied = self._available_index[0]
        chain = super().pop()
        if chain is None:
            return None
        filled = sum(map(len, chain.readable))
        end = filled + chain.room
        if end > REQUEST_MAX:
            raise QueueBroken(f"a request of {end} bytes; of hidden memory {REQUEST_MAX} are served")
        window = self._window[_RINGS_MAX : _RINGS_MAX + end]
        if filled:
            self._move(FROM_GUEST, "buffer", chain.readable, _RINGS_MAX, filled)
        window[filled:] = bytes(chain.room)  # what a device leaves out is nobody's
        self._room = chain.writable
        return Chain(
            chain.head, [window[:filled]] if filled else [], [window[filled:]] if chain.room else [], chain.room
        )

    def push(self, chain: Chain, written: int) -> None:
        if chain.room:
            at = _RINGS_MAX + sum(map(len, chain.readable))
            self._move(TO_GUEST, "buffer", self._room, at, chain.room)
        super().push(chain, written)

    def publish(self) -> bool:
        if self._ring.filled == self._ring.published:
            return False
        self._copy(TO_GUEST, self._done)
        self._fence()  # entries before the index (2.7.8.2)
        self._used_index[0] = self._ring.filled
        self._copy(TO_GUEST, self._served)
        self._fence()  # the index before looking whether the driver sleeps (2.7.7.2, 2.7.10)
        self._copy(FROM_GUEST, self._wish)
        return super().publish()

    def quiet(self) -> None:
        super().quiet()
        self._copy(TO_GUEST, self._own_wish)

    def settle(self) -> int:
        wanted = self.publish() * INTERRUPT
        super().settle()
        self._copy(TO_GUEST, self._own_wish)
        self._fence()  # the wish before the last look at the index (2.7.10)
        self._copy(FROM_GUEST, self._offered)
        return wanted | super().pending * MORE

    def _copy(self, move: Move, piece: Piece) -> None:
        self._move(move, piece.what, piece.guest, piece.at, piece.size)

    def _move(self, move: Move, what: str, guest: Sequence[memoryview], at: int, length: int) -> None:
        """All `length` bytes between the guest's and the window. QueueBroken if some are out of reach."""
        try:
            done = move(self._file, guest, at)
        except OSError as error:
            raise QueueBroken(f"the {what} is out of reach: {error.strerror}") from None
        if done != length:
            raise QueueBroken(f"the {what} is out of reach from byte {done} on")
