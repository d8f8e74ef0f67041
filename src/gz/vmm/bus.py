# SPDX-License-Identifier: Apache-2.0
"""The guest's device addresses: who answers where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

GRANULE_BITS = 9
"""Windows start and end on multiples of 512 bytes, the smallest one the machines have (virtio-mmio): finding
the window of an address is then one look-up."""
GRANULE = 1 << GRANULE_BITS
LARGE = 1 << 20
"""Bytes of a window that is not worth as many look-ups: found after all others."""

Read = Callable[[int, int], int]
Write = Callable[[int, int, int], None]


class Device(Protocol):
    """What a bus calls. Offsets are relative to the device's window; `size` is 1, 2, 4 or 8 bytes."""

    def read(self, offset: int, size: int) -> int:
        """The value at `offset`; the caller takes its low `size` bytes."""
        ...

    def write(self, offset: int, size: int, value: int) -> None:
        """Stores the low `size` bytes, already cut, at `offset`."""
        ...


class Overlap(ValueError):
    """Two windows claim the same address."""


class Bus:
    """`windows` maps address >> GRANULE_BITS to (base, read, write): the exit path indexes it directly."""

    def __init__(self, log: Callable[[str], object]) -> None:
        self.windows: dict[int, tuple[int, Read, Write]] = {}
        self._names: dict[int, str] = {}
        self._large: list[tuple[range, Device]] = []
        self._log = log
        self._reported: set[int] = set()

    def attach(self, name: str, base: int, size: int, device: Device) -> None:
        """Puts a device at base … base + size. Overlap if another is there, ValueError for odd bounds.

        A device smaller than GRANULE has the one it lies in to itself: it gets offsets outside its size, also
        negative ones, and has to know its own."""
        small = 0 < size < GRANULE and base % GRANULE + size <= GRANULE
        if size <= 0 or (not small and (base % GRANULE or size % GRANULE)):
            raise ValueError(
                f"the window of {name}, {size:#x} bytes at {base:#x}, is not made of {GRANULE:#x}-byte steps"
            )
        if size >= LARGE:
            self._attach_large(name, range(base, base + size), device)
            return
        granules = range(base >> GRANULE_BITS, -(-(base + size) >> GRANULE_BITS))
        for granule in granules:
            if granule in self.windows:
                raise Overlap(f"{name} at {base:#x} overlaps {self._names[granule]} at {self.windows[granule][0]:#x}")
        row = (base, device.read, device.write)
        for granule in granules:
            self.windows[granule] = row
            self._names[granule] = name

    def _attach_large(self, name: str, window: range, device: Device) -> None:
        """Others may lie within: they are found first."""
        for other, _ in self._large:
            if window.start < other.stop and other.start < window.stop:
                raise Overlap(f"{name} at {window.start:#x} overlaps what is at {other.start:#x}")
        self._large.append((window, device))

    def unmatched(self, address: int, size: int, written: int | None) -> int:
        """Serves an access outside of `windows`. What nobody answers reads as 0; each 4 KiB page of that is
        reported once."""
        for window, device in self._large:
            if address in window:
                if written is None:
                    return device.read(address - window.start, size)
                device.write(address - window.start, size, written)
                return 0
        page = address >> 12
        if page not in self._reported:
            self._reported.add(page)
            what = "reads" if written is None else f"writes {written:#x} to"
            self._log(f"the guest {what} {address:#x} ({size} bytes), where no device is")
        return 0
