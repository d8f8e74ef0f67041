# SPDX-License-Identifier: Apache-2.0
"""The core's own tables, walked as the architecture describes it (DDI 0487 D8.2, D8.3)."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest

from gz.core import memory, mmu
from gz.core.image import TABLE_COUNT
from gz.metal import Panic, Program
from gz.metal.jit import Jit

PAGE, BLOCK, GIB = 1 << 12, 1 << 21, 1 << 30

AF, AP2, AP1 = 1 << 10, 1 << 7, 1 << 6
XN = 1 << 54


class Translation(NamedTuple):
    pa: int
    size: int
    bits: int


class Tables:
    """48-bit stage 1 tables in a buffer that claims to lie at physical address BASE."""

    BASE = 0x7000_0000

    def __init__(self, jit: Jit) -> None:
        self.jit = jit
        jit.reset()
        self.memory = self.jit.buffer(TABLE_COUNT * PAGE)
        tables = self.jit.storage("gz.core.mmu.tables")
        tables.base, tables.used, tables.distance = self.memory.address, 1, self.memory.address - self.BASE

    def map(self, *arguments: int) -> None:
        self.jit.fn(mmu.map)(*arguments)

    def at(self, va: int) -> Translation:
        """Of an address that is mapped."""
        found = self.walk(va)
        assert found is not None, hex(va)
        return found

    def walk(self, va: int) -> Translation | None:
        """EL2, E2H = 0: one range of addresses, level 0 first."""
        table = self.BASE
        for shift in (39, 30, 21, 12):
            place = table - self.BASE + 8 * (va >> shift & 511)
            (descriptor,) = struct.unpack_from("<Q", self.memory.memory, place)
            if descriptor & 1 == 0:
                return None
            output = descriptor & 0x0000_FFFF_FFFF_F000
            if shift == 12 or descriptor & 2 == 0:
                assert shift != 39 and (descriptor & 2 != 0) == (shift == 12)
                assert output % (1 << shift) == 0 and descriptor & AF and descriptor & AP1
                return Translation(output | va & (1 << shift) - 1, 1 << shift, descriptor)
            table = output


@pytest.fixture
def tables(jit: Jit) -> Tables:
    return Tables(jit)


@pytest.fixture(scope="module")
def jit() -> Jit:
    return Program(roots=[mmu.map, mmu.map_device, mmu.map_ram]).jit()


STRETCHES = [
    (0xC000_0000_0000, 0x4020_0000, 5 * PAGE),
    (0xC000_0000_0000, 0x4020_3000, 600 * PAGE),
    (memory.RAM_WINDOW + GIB, GIB, 4 * GIB),
    (memory.RAM_WINDOW + GIB + 3 * PAGE, GIB + 3 * PAGE, 2 * GIB - 5 * PAGE),
    (memory.RAM_WINDOW, 0, GIB),
    (0x7FFF_F000, 0x4123_4000, 2 * PAGE),
    (0xFFFF_FFE0_0000, 0x4020_0000, BLOCK),
]


@pytest.mark.parametrize("va, pa, size", STRETCHES)
@pytest.mark.parametrize("attributes", [mmu.CODE, mmu.CONSTANT, mmu.DATA, mmu.DEVICE])
def test_exactly_the_stretch_is_mapped(tables: Tables, va: int, pa: int, size: int, attributes: int) -> None:
    tables.map(va, pa, size, attributes)
    probes = {0, size - 1, size // 2, PAGE - 1, min(BLOCK, size - 1), min(GIB, size - 1), size - PAGE}
    for offset in probes:
        found = tables.at(va + offset)
        assert found.pa == pa + offset
        assert found.bits & ~0x0000_FFFF_FFFF_F003 == attributes & ~3
    assert tables.walk(va - 1) is None
    assert va + size >= 1 << 48 or tables.walk(va + size) is None


def test_blocks_are_used(tables: Tables) -> None:
    tables.map(memory.RAM_WINDOW + GIB - PAGE, GIB - PAGE, 2 * GIB + PAGE, mmu.DATA)
    assert tables.at(memory.RAM_WINDOW + GIB - PAGE).size == PAGE
    assert tables.at(memory.RAM_WINDOW + GIB).size == GIB
    assert tables.walk(memory.RAM_WINDOW + 3 * GIB) is None


def test_nothing_is_writable_and_executable() -> None:
    for attributes in (mmu.CODE, mmu.CONSTANT, mmu.DATA, mmu.DEVICE):
        assert attributes & AP2 or attributes & XN
    assert mmu.CODE & AP2 and not mmu.CODE & XN and mmu.CONSTANT & AP2
    assert mmu.DEVICE >> 2 & 7 != mmu.DATA >> 2 & 7


def test_first_mapping_stays(tables: Tables) -> None:
    tables.map(0x1000_0000, 0x4000_0000, PAGE, mmu.CODE)
    tables.map(0x1000_0000 - 4 * PAGE, 0x8000_0000 - 4 * PAGE, 8 * PAGE, mmu.DATA)
    assert tables.at(0x1000_0000).pa == 0x4000_0000
    assert tables.at(0x1000_1000).pa == 0x8000_1000
    tables.map(0x2000_0000, 0x4000_0000, BLOCK, mmu.DATA)
    tables.map(0x2000_0000 - PAGE, 0x8000_0000 - PAGE, BLOCK + 2 * PAGE, mmu.DATA)
    assert tables.walk(0x2000_0000) == (0x4000_0000, BLOCK, tables.at(0x2000_0000).bits)
    assert tables.at(0x2020_0000).pa == 0x8020_0000


def test_image_is_not_in_the_window(tables: Tables) -> None:
    machine = tables.jit.storage("gz.core.platform.machine")
    machine.image.base, machine.image.size = 0x4020_0000, 0x12_3000
    tables.jit.fn(mmu.map_ram)(0x4000_0000, GIB)
    for inside in (0x4020_0000, 0x4032_2000):
        assert tables.walk(memory.RAM_WINDOW + inside) is None
    for outside in (0x4000_0000, 0x401F_F000, 0x4032_3000, 0x7FFF_F000):
        assert tables.at(memory.RAM_WINDOW + outside).pa == outside


def test_device_pages(tables: Tables) -> None:
    at = tables.jit.fn(mmu.map_device)(0x900_0F00, 0x200)
    assert at == memory.DEVICE_WINDOW + 0x900_0F00
    assert tables.at(at).pa == 0x900_0F00 and tables.at(at + 0x100).pa == 0x900_1000
    assert tables.walk(memory.DEVICE_WINDOW + 0x900_2000) is None


def test_too_many_tables(tables: Tables) -> None:
    with pytest.raises(Panic, match="no table left"):
        for i in range(TABLE_COUNT):
            tables.map(i << 39, 0, PAGE, mmu.DATA)
