# SPDX-License-Identifier: Apache-2.0
"""Guest RAM as bytes of this process, every access checked against the regions that exist."""

from __future__ import annotations

from collections.abc import Callable, Iterable


class BadAddress(Exception):
    """A guest-physical range that is not wholly inside one region of guest RAM."""

    def __init__(self, gpa: int, length: int) -> None:
        super().__init__(f"{length} bytes at {gpa:#x} are not guest memory")


def no_barrier() -> None:
    """For memory that no other processor reads."""


class GuestMemory:
    """`regions`: (guest-physical base, writable bytes). `barrier` orders every access of this thread before
    it against every one after it, as the guest's processors see them (dmb ish)."""

    def __init__(self, regions: Iterable[tuple[int, memoryview]], barrier: Callable[[], object] = no_barrier) -> None:
        self._regions = [(base, base + len(view), view) for base, view in regions]
        self.barrier = barrier

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
