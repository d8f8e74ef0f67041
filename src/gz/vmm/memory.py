# SPDX-License-Identifier: Apache-2.0
"""Guest RAM as bytes of this process, every access checked against the regions that exist."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable

from gz.bits.view import address_of
from gz.vmm.virtio.shared import Region, Regions


class BadAddress(Exception):
    """A guest-physical range that is not wholly inside one region of guest RAM."""

    def __init__(self, gpa: int, length: int) -> None:
        super().__init__(f"{length} bytes at {gpa:#x} are not guest memory")


class GuestMemory:
    """`regions`: (guest-physical base, writable bytes). Compiled code finds them in `table`. `private`: as soon as the
    guest runs, touching them may end this process; system calls that copy give EFAULT."""

    def __init__(self, regions: Iterable[tuple[int, memoryview]], private: bool = False) -> None:
        self.private = private
        self._regions = [(base, base + len(view), view) for base, view in regions]
        self.views: tuple[memoryview, ...] = tuple(view for _, _, view in self._regions)
        """The bytes of each region."""
        self.table = Regions.view((ctypes.c_uint64 * (Regions.size // 8))())
        for number, (base, end, view) in enumerate(self._regions):
            row: Region = self.table.rows[number]
            row.base, row.size, row.memory = base, end - base, address_of(view)
        self.table.count = len(self._regions)

    def at(self, gpa: int, length: int) -> memoryview:
        """The `length` bytes at `gpa`, writable and in place; BadAddress if some of them are not RAM."""
        for base, end, view in self._regions:
            if base <= gpa and gpa + length <= end and length >= 0:
                offset = gpa - base
                return view[offset : offset + length]
        raise BadAddress(gpa, length)

    def regions(self) -> list[tuple[int, int]]:
        """(base, size) of each region, in bytes."""
        return [(base, end - base) for base, end, _ in self._regions]

    def release(self) -> None:
        """Forgets the regions, so that their mapping can go; later accesses are BadAddress."""
        self._regions.clear()
        self.views = ()
        self.table.count = 0
