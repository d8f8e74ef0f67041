# SPDX-License-Identifier: Apache-2.0
"""Syndromes and translation constants against values written out by hand or seen on machines."""

from __future__ import annotations

from gz.arm64.descriptors import MAIR, PA_BITS, Mair, Stage1, Stage2
from gz.arm64.gic_interface import ICC_SGI1R_EL1, ICH_LR, LR_EOI
from gz.arm64.image import ImageHeader
from gz.arm64.registers import HCR_EL2, SCTLR_EL1, SCTLR_EL1_RES1, SPSR, TCR_EL2, VTCR_EL2, Mode
from gz.arm64.syndrome import (
    ESR_EL2,
    EXTERNAL_DATA_ABORT,
    FAULT_TYPE_MASK,
    SAME_LEVEL,
    UNDEFINED,
    DataAbort,
    ExceptionClass,
    FaultStatus,
)


def test_store_to_unmapped_memory() -> None:
    """ESR 0x93800046: "str w0" at level 2, as the manual decodes it."""
    esr = ESR_EL2(0x9380_0046)
    assert esr.EC == ExceptionClass.DATA_ABORT_LOWER
    abort = DataAbort(esr.ISS)
    assert (abort.ISV, abort.SAS, abort.SRT, abort.SF, abort.WnR) == (1, 2, 0, 0, 1)
    assert abort.DFSC & FAULT_TYPE_MASK == FaultStatus.TRANSLATION
    assert abort.DFSC & 3 == 2


def test_injected_syndromes() -> None:
    """Linux prints 0x96000010 for a synchronous external abort in the kernel, 0x02000000 for an undefined one."""
    assert EXTERNAL_DATA_ABORT == 0x9200_0010
    assert EXTERNAL_DATA_ABORT | SAME_LEVEL == 0x9600_0010
    assert UNDEFINED == 0x0200_0000


def test_boot_pstate() -> None:
    assert int(SPSR(M=Mode.EL1H, F=1, I=1, A=1, D=1)) == 0x3C5


def test_memory_attributes() -> None:
    first = MAIR & 0xFF
    assert first == Mair.DEVICE_nGnRE
    assert MAIR >> 8 & 0xFF == Mair.NORMAL_WRITE_BACK
    assert PA_BITS[5] == 48


def test_leaves() -> None:
    """A read-write page of normal memory in stage 2, and of a read-only one in stage 1: bits spelled out."""
    page = Stage2(VALID=1, TABLE_OR_PAGE=1, MemAttr=0xF, S2AP=3, SH=3, AF=1, ADDRESS=0x8_0000, XN=2)
    assert int(page) == 0x0040_0000_8000_07FF
    leaf = Stage1(VALID=1, TABLE_OR_PAGE=1, AttrIndx=1, AP1=1, AP2=1, SH=3, AF=1, ADDRESS=1, XN=1)
    assert int(leaf) == 0x0040_0000_0000_17C7


def test_control_values() -> None:
    """What KVM on a machine with 40-bit addresses, and its flags of a guest, come to."""
    assert int(VTCR_EL2(T0SZ=24, SL0=1, IRGN0=1, ORGN0=1, SH0=3, PS=2)) | 1 << 31 == 0x8002_3558
    assert int(HCR_EL2(VM=1, FMO=1, IMO=1, AMO=1, RW=1, TSC=1)) == 0x8008_0039
    assert int(TCR_EL2(T0SZ=16, IRGN0=1, ORGN0=1, SH0=3, PS=5)) == 0x5_3510
    assert int(SCTLR_EL1(SCTLR_EL1_RES1, M=1, C=1, I=1)) == 0x30D0_1805


def test_interrupt_values() -> None:
    assert int(ICH_LR(State=1, HW=1, Group=1, Priority=0xA0, pINTID=27, vINTID=27)) == 0x70A0_001B_0000_001B
    assert LR_EOI == 1 << 41
    assert int(ICC_SGI1R_EL1(INTID=7, Aff1=2, TargetList=0b101)) == 0x0702_0005


def test_image_header() -> None:
    assert ImageHeader.size == 64
    assert ImageHeader.offset("magic") == 56
