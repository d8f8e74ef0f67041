# SPDX-License-Identifier: Apache-2.0
"""Translation table descriptors with the 4 KiB granule (DDI 0487, D8.3), and memory types."""

from __future__ import annotations

from enum import IntEnum

from gz.bits import Register, field

PAGE_SHIFT = 12
PAGE_SIZE = 1 << PAGE_SHIFT
PAGE_MASK = PAGE_SIZE - 1
TABLE_ENTRIES = 512
TABLE_BITS = 9
BLOCK_SHIFT = 21
BLOCK_SIZE = 1 << BLOCK_SHIFT
"""A level 2 block."""
GIGABYTE_SHIFT = 30
"""A level 1 block."""
LEVEL_SHIFT = (39, 30, 21, 12)
"""Lowest address bit that a table of each level resolves."""

VALID = 1 << 0
TABLE = 0b11
"""Levels 0 to 2: the entry names a table."""
BLOCK = 0b01
"""Levels 1 and 2: the entry maps a block."""
PAGE = 0b11
"""Level 3: the entry maps a page."""
TYPE_MASK = 0b11
ADDRESS_MASK = 0x0000_FFFF_FFFF_F000
"""Bits 47:12 of the address, for a table or a page."""


class Shareability(IntEnum):
    NON = 0
    OUTER = 2
    INNER = 3


class Cacheability(IntEnum):
    """IRGN and ORGN of the TCR registers."""

    NON = 0
    WRITE_BACK = 1
    WRITE_THROUGH = 2
    WRITE_BACK_NO_ALLOCATE = 3


class Stage1(Register):
    """A leaf of stage 1; those of EL2 (E2H = 0) have one privilege level: AP[1] is RES1 and XN is bit 54."""

    VALID = field(0)
    TABLE_OR_PAGE = field(1)
    AttrIndx = field(4, 2)
    """Index into MAIR_ELx."""
    NS = field(5)
    AP1 = field(6)
    """EL1&0: EL0 may access. EL2: RES1."""
    AP2 = field(7)
    """1: read-only."""
    SH = field(9, 8)
    AF = field(10)
    nG = field(11)
    ADDRESS = field(47, 12)
    GP = field(50)
    DBM = field(51)
    Contiguous = field(52)
    PXN = field(53)
    XN = field(54)
    """UXN at EL1&0."""
    SOFTWARE = field(58, 55)


class Stage2(Register):
    """A leaf of stage 2."""

    VALID = field(0)
    TABLE_OR_PAGE = field(1)
    MemAttr = field(5, 2)
    """A :class:`MemAttr`."""
    S2AP = field(7, 6)
    """An :class:`S2AP`."""
    SH = field(9, 8)
    AF = field(10)
    ADDRESS = field(47, 12)
    DBM = field(51)
    Contiguous = field(52)
    XN = field(54, 53)
    """2: no execution; 1 and 3 (by exception level) need FEAT_XNX."""
    SOFTWARE = field(58, 55)


class MemAttr(IntEnum):
    """Stage 2 memory types with HCR_EL2.FWB = 0."""

    DEVICE_nGnRnE = 0b0000
    DEVICE_nGnRE = 0b0001
    DEVICE_nGRE = 0b0010
    DEVICE_GRE = 0b0011
    NORMAL_NON_CACHEABLE = 0b0101
    NORMAL_WRITE_BACK = 0b1111


class MemAttrFwb(IntEnum):
    """Stage 2 memory types with HCR_EL2.FWB = 1."""

    DEVICE_nGnRE = 0b0001
    NORMAL_NON_CACHEABLE = 0b0101
    NORMAL_WRITE_BACK = 0b0110
    """Whatever stage 1 says."""
    STAGE1 = 0b0111


class S2AP(IntEnum):
    NONE = 0
    READ = 1
    WRITE = 2
    READ_WRITE = 3


class Mair(IntEnum):
    """One attribute of MAIR_ELx."""

    DEVICE_nGnRnE = 0x00
    DEVICE_nGnRE = 0x04
    NORMAL_NON_CACHEABLE = 0x44
    NORMAL_WRITE_BACK = 0xFF


class MairIndex(IntEnum):
    """The places we give them."""

    DEVICE = 0
    NORMAL = 1
    NON_CACHEABLE = 2


MAIR = (
    Mair.DEVICE_nGnRE << 8 * MairIndex.DEVICE
    | Mair.NORMAL_WRITE_BACK << 8 * MairIndex.NORMAL
    | Mair.NORMAL_NON_CACHEABLE << 8 * MairIndex.NON_CACHEABLE
)
"""MAIR_ELx for :class:`MairIndex`."""

PA_BITS = (32, 36, 40, 42, 44, 48, 52)
"""Physical address bits by ID_AA64MMFR0_EL1.PARange; TCR_EL1.IPS, TCR_EL2.PS and VTCR_EL2.PS have the same values."""

TG0_4K = 0
TG0_64K = 1
TG0_16K = 2
TG1_4K = 2

SL0_LEVEL2 = 0
SL0_LEVEL1 = 1
SL0_LEVEL0 = 2
"""VTCR_EL2.SL0 with the 4 KiB granule: the level at which a walk begins."""
