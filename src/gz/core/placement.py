# SPDX-License-Identifier: Apache-2.0
"""What of RAM is taken at boot, and where there is room."""

from __future__ import annotations

from gz.bits import Array, Pa, Struct, array, storage, u32, u64
from gz.core.memory import in_ram
from gz.core.platform import PhysicalRange, machine, overlaps

TAKEN_MAX = 64


class Placement(Struct):
    taken: Array[PhysicalRange] = array(TAKEN_MAX)
    count: u32


placement = storage(Placement)


def take(base: Pa, size: u64) -> None:
    if size != 0:
        assert placement.count < TAKEN_MAX, "too many reserved regions in the device tree"
        region = placement.taken[placement.count]
        region.base = base
        region.size = size
        placement.count += 1


def is_free(base: Pa, size: u64) -> bool:
    """RAM, and nothing there is taken."""
    return in_ram(base, size) and _obstacle(base, size) == TAKEN_MAX


def find(size: u64, alignment: u64) -> Pa:
    """The lowest room; Pa(0) if there is none. Not taken yet."""
    best = Pa(0)
    for i in range(machine.ram_count):
        bank = machine.ram[i]
        candidate = _align(bank.base, alignment)
        while in_ram(candidate, size):
            obstacle = _obstacle(candidate, size)
            if obstacle == TAKEN_MAX:
                if best == Pa(0) or candidate < best:
                    best = candidate
                break
            region = placement.taken[obstacle]
            candidate = _align(region.base + region.size, alignment)
    return best


def _obstacle(base: Pa, size: u64) -> u32:
    """The first entry in the way; TAKEN_MAX: none."""
    for i in range(placement.count):
        region = placement.taken[i]
        if overlaps(base, size, region.base, region.size):
            return i
    return TAKEN_MAX


def _align(base: Pa, alignment: u64) -> Pa:
    return Pa((u64(base) + alignment - 1) & ~(alignment - 1))
