# SPDX-License-Identifier: Apache-2.0
"""The core's own stage 1 tables: 48-bit space, 4 KiB granule, W^X (DDI 0487, D8.2 and D8.3).

`prepare_tables` runs before the MMU is on, where the code was loaded: it may use nothing that holds an
absolute address. Mappings are only ever added.
"""

from __future__ import annotations

import gz.core.image as image
from gz.arm64.descriptors import (
    ADDRESS_MASK,
    BLOCK,
    BLOCK_SIZE,
    LEVEL_SHIFT,
    PAGE,
    PAGE_SIZE,
    TABLE,
    TABLE_ENTRIES,
    MairIndex,
    Shareability,
    Stage1,
)
from gz.arm64.insn import dsb, isb
from gz.bits import Array, Pa, Struct, Va, array, storage, u32, u64
from gz.core.memory import DEVICE_WINDOW, RAM_WINDOW, WINDOW_BITS
from gz.core.platform import machine
from gz.metal import export, inline, read_once, view, write_once
from gz.metal.layout import LINK_ADDRESS, STACK_COUNT, STACK_STRIDE

_NORMAL = Stage1(VALID=1, AttrIndx=MairIndex.NORMAL, AP1=1, SH=Shareability.INNER, AF=1)
CODE = int(_NORMAL.replace(AP2=1))
CONSTANT = int(_NORMAL.replace(AP2=1, XN=1))
DATA = int(_NORMAL.replace(XN=1))
DEVICE = int(Stage1(VALID=1, AttrIndx=MairIndex.DEVICE, AP1=1, AF=1, XN=1))

_LAST_LEVEL = 3


class TranslationTable(Struct, align=PAGE_SIZE):
    entries: Array[u64] = array(TABLE_ENTRIES)


class Tables(Struct):
    base: Va  # image.TABLE_COUNT of them, the root first
    used: u64
    distance: u64  # from the physical address of the image to where its code and data are seen now


tables = storage(Tables)


@inline
def _table(descriptor: u64) -> TranslationTable:
    return view(TranslationTable, Va((descriptor & ADDRESS_MASK) + tables.distance))


def map(va: Va, pa: Pa, size: u64, attributes: u64) -> None:
    """Map whole pages, by the largest blocks that fit. What is mapped already stays as it is."""
    done: u64 = 0
    while done < size:
        at = u64(va) + done
        target = u64(pa) + done
        table = view(TranslationTable, tables.base)
        level: u32 = 0
        span: u64 = 0
        while True:
            shift = _shift(level)
            span = u64(1) << shift
            index = (at >> shift) & (TABLE_ENTRIES - 1)
            fits = (at | target) & (span - 1) == 0 and size - done >= span
            descriptor = read_once(table.entries[index])
            if level == _LAST_LEVEL or (level != 0 and fits and descriptor == 0):
                if descriptor == 0:
                    kind: u64 = PAGE if level == _LAST_LEVEL else BLOCK
                    write_once(table.entries[index], target | attributes | kind)
                break
            if descriptor == 0:
                assert tables.used < image.TABLE_COUNT, "no table left for the core's own mappings"
                descriptor = (u64(tables.base) + tables.used * PAGE_SIZE - tables.distance) | TABLE
                tables.used += 1
                write_once(table.entries[index], descriptor)
            elif descriptor & TABLE != TABLE:
                break  # a block of an earlier call
            table = _table(descriptor)
            level += 1
        done += span - (at & (span - 1))
    dsb("ishst")
    isb()


@inline
def _shift(level: u32) -> u64:
    return u64(LEVEL_SHIFT[0]) - u64(level) * (LEVEL_SHIFT[0] - LEVEL_SHIFT[1])


@export
def prepare_tables(tree: Pa) -> None:
    """With the MMU off: tables for the image, the page that turns the MMU on, and the tree's beginning."""
    tables.base = image.tables_start()
    tables.used = 1
    tables.distance = 0
    start = image.image_start()
    load = Pa(u64(start))
    _segment(start, start, image.text_end(), CODE)
    _segment(start, image.rodata_start(), image.rodata_end(), CONSTANT)
    _segment(start, image.data_start(), image.data_end(), DATA)
    stacks = image.stacks_start()
    for i in range(STACK_COUNT):
        stack = stacks + i * STACK_STRIDE
        _segment(start, stack + PAGE_SIZE, stack + STACK_STRIDE, DATA)  # the page below is the guard
    map(Va(u64(start)), load, PAGE_SIZE, CODE)
    window = Pa(u64(tree) & ~(BLOCK_SIZE - 1))
    map(Va(u64(window) + RAM_WINDOW), window, BLOCK_SIZE, DATA)


@inline
def _segment(start: Va, begin: Va, end: Va, attributes: u64) -> None:
    map(Va(LINK_ADDRESS + (begin - start)), Pa(u64(begin)), end - begin, attributes)


def enabled() -> None:
    """The MMU is on now, and the tables are seen elsewhere."""
    tables.distance = u64(image.tables_start()) - u64(tables.base)
    tables.base = image.tables_start()


def load_address() -> Pa:
    """Where the image lies in memory."""
    return Pa(LINK_ADDRESS - tables.distance)


@inline
def device(base: Pa) -> Va:
    """Where a mapped device is seen."""
    return Va(u64(base) + DEVICE_WINDOW)


def map_device(base: Pa, size: u64) -> Va:
    """Whole pages around a device, in the device window; where `base` is seen."""
    first = u64(base) & ~(PAGE_SIZE - 1)
    end = (u64(base) + size + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
    map(Va(first + DEVICE_WINDOW), Pa(first), end - first, DEVICE)
    return device(base)


def map_ram(base: Pa, size: u64) -> None:
    """Whole pages of RAM into the window, but not the core's image: nothing writes its code."""
    own = u64(machine.image.base)
    own_end = u64(machine.firmware.base) if machine.firmware.size != 0 else own + machine.image.size
    first = u64(base)
    end = first + size
    if first < own_end and own < end:
        if first < own:
            _ram(first, own)
        first = own_end
    if first < end:
        _ram(first, end)


@inline
def _ram(first: u64, end: u64) -> None:
    map(Va(first + RAM_WINDOW), Pa(first), end - first, DATA)


assert RAM_WINDOW + (1 << WINDOW_BITS) <= DEVICE_WINDOW and DEVICE_WINDOW + (1 << WINDOW_BITS) <= LINK_ADDRESS
