# SPDX-License-Identifier: Apache-2.0
"""A stage 2 walk as the architecture describes it (DDI 0487 D8.2, D8.3), over raw memory and registers.

Knows nothing of the core: numbers of bits are those of the manual.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple


class Translation(NamedTuple):
    pa: int  # of the byte
    size: int  # of the leaf
    attributes: int  # MemAttr, S2AP, SH, AF, XN in place


ATTRIBUTES = 0x7F << 53 | 0xFFC


def regime(vtcr: int, vttbr: int) -> tuple[int, int, int]:
    """Bits of input address, level of the first table, its address; AssertionError for what is not defined."""
    assert vtcr >> 31 & 1 == 1, "RES1"
    assert vtcr >> 14 & 3 == 0, "4 KiB granule"
    bits = 64 - (vtcr & 63)
    level = 2 - (vtcr >> 6 & 3)
    resolved = 12 + 9 * (3 - level)  # bits below the first table's index
    index_bits = bits - resolved
    assert 1 <= index_bits <= 13, "the first level is too small or more than 16 tables"
    base = vttbr & 0x0000_FFFF_FFFF_FFFE
    assert base % max(8 << index_bits, 64) == 0, "concatenated tables are aligned to their whole size"
    return bits, level, base


def walk(read64: Callable[[int], int], vtcr: int, vttbr: int, ipa: int) -> Translation | None:
    bits, level, base = regime(vtcr, vttbr)
    if ipa >> bits:
        return None
    width = bits - (12 + 9 * (3 - level))
    while True:
        shift = 12 + 9 * (3 - level)
        descriptor = read64(base + 8 * (ipa >> shift & (1 << width) - 1))
        if descriptor & 1 == 0:
            return None
        if level == 3 or descriptor & 2 == 0:
            assert (descriptor & 2 != 0) == (level == 3), "reserved encoding"
            assert level != 0
            output = descriptor & 0x0000_FFFF_FFFF_F000
            assert output % (1 << shift) == 0, "block not aligned"
            assert descriptor >> 10 & 1 == 1, "access flag"
            return Translation(output | ipa & (1 << shift) - 1, 1 << shift, descriptor & ATTRIBUTES)
        base = descriptor & 0x0000_FFFF_FFFF_F000
        level, width = level + 1, 9


def leaves(read64: Callable[[int], int], vtcr: int, vttbr: int) -> Iterator[tuple[int, int, int, int]]:
    """All that is mapped, ascending: address, output, size, attributes."""
    bits, level, base = regime(vtcr, vttbr)

    def table(base: int, level: int, count: int, start: int) -> Iterator[tuple[int, int, int, int]]:
        shift = 12 + 9 * (3 - level)
        for index in range(count):
            descriptor = read64(base + 8 * index)
            at = start + (index << shift)
            if descriptor & 1 == 0:
                continue
            output = descriptor & 0x0000_FFFF_FFFF_F000
            if level < 3 and descriptor & 2:
                yield from table(output, level + 1, 512, at)
            else:
                assert output % (1 << shift) == 0, "block not aligned"
                assert descriptor >> 10 & 1 == 1, "access flag"
                yield at, output, 1 << shift, descriptor & ATTRIBUTES

    yield from table(base, level, 1 << bits - (12 + 9 * (3 - level)), 0)
