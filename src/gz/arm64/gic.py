# SPDX-License-Identifier: Apache-2.0
"""GICv3 memory-mapped registers (IHI 0069, 12.9 to 12.11) and the GICv2m frame.

Fields of the system registers are in :mod:`gz.arm64.gic_interface`.
"""

from __future__ import annotations

from gz.bits import Array, Register, Window, array, at, field, u8, u32, u64

SGIS = 16
PRIVATE_INTERRUPTS = 32
"""SGIs 0-15, PPIs 16-31: one set per CPU. SPIs begin here."""
INTERRUPTS_MAX = 1020
SPURIOUS = 1023

DISTRIBUTOR_SIZE = 0x1_0000
FRAME_SIZE = 0x1_0000
REDISTRIBUTOR_SIZE = 2 * FRAME_SIZE
"""RD_base and SGI_base; GICv4 has two frames more (GICR_TYPER.VLPIS)."""


class Gicd(Window):
    CTLR: u32 = at(0x0000)
    TYPER: u32 = at(0x0004)
    IIDR: u32 = at(0x0008)
    TYPER2: u32 = at(0x000C)
    STATUSR: u32 = at(0x0010)
    SETSPI_NSR: u32 = at(0x0040)
    CLRSPI_NSR: u32 = at(0x0048)
    IGROUPR: Array[u32] = array(32, at=0x0080)
    ISENABLER: Array[u32] = array(32, at=0x0100)
    ICENABLER: Array[u32] = array(32, at=0x0180)
    ISPENDR: Array[u32] = array(32, at=0x0200)
    ICPENDR: Array[u32] = array(32, at=0x0280)
    ISACTIVER: Array[u32] = array(32, at=0x0300)
    ICACTIVER: Array[u32] = array(32, at=0x0380)
    IPRIORITYR: Array[u8] = array(1020, at=0x0400)
    ITARGETSR: Array[u8] = array(1020, at=0x0800)
    ICFGR: Array[u32] = array(64, at=0x0C00)
    IGRPMODR: Array[u32] = array(32, at=0x0D00)
    NSACR: Array[u32] = array(64, at=0x0E00)
    SGIR: u32 = at(0x0F00)
    IROUTER: Array[u64] = array(1020, at=0x6000)
    """By INTID, from 32 on."""
    PIDR4: u32 = at(0xFFD0)
    PIDR2: u32 = at(0xFFE8)


class Gicr(Window):
    """RD_base frame."""

    CTLR: u32 = at(0x0000)
    IIDR: u32 = at(0x0004)
    TYPER: u64 = at(0x0008)
    STATUSR: u32 = at(0x0010)
    WAKER: u32 = at(0x0014)
    MPAMIDR: u32 = at(0x0018)
    PARTIDR: u32 = at(0x001C)
    SETLPIR: u64 = at(0x0040)
    CLRLPIR: u64 = at(0x0048)
    PROPBASER: u64 = at(0x0070)
    PENDBASER: u64 = at(0x0078)
    INVLPIR: u64 = at(0x00A0)
    INVALLR: u64 = at(0x00B0)
    SYNCR: u32 = at(0x00C0)
    PIDR4: u32 = at(0xFFD0)
    PIDR2: u32 = at(0xFFE8)


class GicrSgi(Window):
    """SGI_base frame: private interrupts."""

    IGROUPR0: u32 = at(0x0080)
    ISENABLER0: u32 = at(0x0100)
    ICENABLER0: u32 = at(0x0180)
    ISPENDR0: u32 = at(0x0200)
    ICPENDR0: u32 = at(0x0280)
    ISACTIVER0: u32 = at(0x0300)
    ICACTIVER0: u32 = at(0x0380)
    IPRIORITYR: Array[u8] = array(32, at=0x0400)
    ICFGR: Array[u32] = array(2, at=0x0C00)
    IGRPMODR0: u32 = at(0x0D00)
    NSACR: u32 = at(0x0E00)


class GICD_CTLR(Register, width=32):
    """Seen from the Non-secure side, or with one security state (DS = 1)."""

    EnableGrp0 = field(0)
    """DS = 1 only. Non-secure with two states: EnableGrp1."""
    EnableGrp1NS = field(1)
    """DS = 1. Non-secure with two states: EnableGrp1A."""
    ARE_S = field(4)
    """DS = 1 and the Non-secure view: ARE."""
    ARE_NS = field(5)
    DS = field(6)
    E1NWF = field(7)
    nASSGIreq = field(8)
    RWP = field(31)


class GICD_TYPER(Register, width=32):
    ITLinesNumber = field(4, 0)
    """Interrupts up to INTID 32 * (n + 1) - 1."""
    CPUNumber = field(7, 5)
    ESPI = field(8)
    NMI = field(9)
    SecurityExtn = field(10)
    num_LPIs = field(15, 11)
    MBIS = field(16)
    LPIS = field(17)
    DVIS = field(18)
    IDbits = field(23, 19)
    """INTID bits minus 1."""
    A3V = field(24)
    No1N = field(25)
    RSS = field(26)
    ESPI_range = field(31, 27)


class GIC_IIDR(Register, width=32):
    """GICD_IIDR and GICR_IIDR."""

    Implementer = field(11, 0)
    """JEP106 code; Arm is 0x43B."""
    Revision = field(15, 12)
    Variant = field(19, 16)
    ProductID = field(31, 24)


class GICD_IROUTER(Register):
    Aff0 = field(7, 0)
    Aff1 = field(15, 8)
    Aff2 = field(23, 16)
    Interrupt_Routing_Mode = field(31)
    """1: any one CPU."""
    Aff3 = field(39, 32)


class GICR_CTLR(Register, width=32):
    EnableLPIs = field(0)
    CES = field(1)
    IR = field(2)
    RWP = field(3)
    DPG0 = field(24)
    DPG1NS = field(25)
    DPG1S = field(26)
    UWP = field(31)


class GICR_TYPER(Register):
    PLPIS = field(0)
    VLPIS = field(1)
    """GICv4: four frames instead of two."""
    Dirty = field(2)
    DirectLPI = field(3)
    Last = field(4)
    DPGS = field(5)
    MPAM = field(6)
    RVPEID = field(7)
    Processor_Number = field(23, 8)
    CommonLPIAff = field(25, 24)
    VSGI = field(26)
    PPInum = field(31, 27)
    Affinity_Value = field(63, 32)
    """Aff3.Aff2.Aff1.Aff0, a byte each."""


class GICR_WAKER(Register, width=32):
    ProcessorSleep = field(1)
    ChildrenAsleep = field(2)


class GIC_PIDR2(Register, width=32):
    ArchRev = field(7, 4)
    """3: GICv3, 4: GICv4."""


GICV3 = 3
GICV4 = 4
ARM_IMPLEMENTER = 0x43B

EDGE = 0b10
LEVEL = 0b00
"""The two-bit fields of ICFGR; only the upper bit counts."""


class Gicv2m(Window):
    """MSI frame: a store of an SPI number to SETSPI_NS raises that interrupt."""

    MSI_TYPER: u32 = at(0x008)
    MSI_SETSPI_NS: u32 = at(0x040)
    MSI_IIDR: u32 = at(0xFCC)


class MSI_TYPER(Register, width=32):
    COUNT = field(9, 0)
    BASE = field(25, 16)
    """INTID of the first interrupt."""
