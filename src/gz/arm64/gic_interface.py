# SPDX-License-Identifier: Apache-2.0
"""Fields of the GIC's system registers: CPU interface and virtualisation control (IHI 0069, 12.2 and 12.4)."""

from __future__ import annotations

from enum import IntEnum

from gz.bits import Register, field


class ICC_SRE(Register):
    """ICC_SRE_EL1 and ICC_SRE_EL2."""

    SRE = field(0)
    DFB = field(1)
    DIB = field(2)
    Enable = field(3)
    """EL2 only: EL1 may use ICC_SRE_EL1."""


class ICC_CTLR_EL1(Register):
    CBPR = field(0)
    EOImode = field(1)
    """1: ICC_EOIR* drops the priority only, ICC_DIR deactivates."""
    PMHE = field(6)
    PRIbits = field(10, 8)
    IDbits = field(13, 11)
    SEIS = field(14)
    A3V = field(15)
    RSS = field(18)
    ExtRange = field(19)


class ICC_SGI1R_EL1(Register):
    TargetList = field(15, 0)
    Aff1 = field(23, 16)
    INTID = field(27, 24)
    Aff2 = field(39, 32)
    IRM = field(40)
    """1: every CPU but this one."""
    RS = field(47, 44)
    """TargetList stands for Aff0 16*RS … 16*RS+15."""
    Aff3 = field(55, 48)


class ICH_HCR_EL2(Register):
    En = field(0)
    UIE = field(1)
    """Maintenance interrupt: at most one list register holds an interrupt."""
    LRENPIE = field(2)
    NPIE = field(3)
    """Maintenance interrupt: no list register is pending."""
    VGrp0EIE = field(4)
    VGrp0DIE = field(5)
    VGrp1EIE = field(6)
    VGrp1DIE = field(7)
    vSGIEOICount = field(8)
    TC = field(10)
    """Traps the registers common to both groups: ICC_CTLR, ICC_DIR, ICC_PMR, ICC_RPR and the SGI registers."""
    TALL0 = field(11)
    TALL1 = field(12)
    TSEI = field(13)
    TDIR = field(14)
    DVIM = field(15)
    EOIcount = field(31, 27)


class ICH_VTR_EL2(Register):
    ListRegs = field(4, 0)
    """List registers minus 1."""
    TDS = field(19)
    nV4 = field(20)
    A3V = field(21)
    SEIS = field(22)
    IDbits = field(25, 23)
    PREbits = field(28, 26)
    """Preemption bits minus 1: 4 means one active-priority register, 5 two, 6 four."""
    PRIbits = field(31, 29)


class ICH_VMCR_EL2(Register):
    VENG0 = field(0)
    VENG1 = field(1)
    VAckCtl = field(2)
    VFIQEn = field(3)
    VCBPR = field(4)
    VEOIM = field(9)
    VBPR1 = field(20, 18)
    VBPR0 = field(23, 21)
    VPMR = field(31, 24)


class LrState(IntEnum):
    INACTIVE = 0
    PENDING = 1
    ACTIVE = 2
    PENDING_ACTIVE = 3


class ICH_LR(Register):
    vINTID = field(31, 0)
    pINTID = field(44, 32)
    """With HW: the physical interrupt that is deactivated along. Without HW only :data:`LR_EOI` has a meaning here."""
    Priority = field(55, 48)
    Group = field(60)
    HW = field(61)
    State = field(63, 62)
    """A :class:`LrState`."""


LR_EOI = 1 << 41
"""In a list register without HW: a maintenance interrupt when this interrupt ends."""


class ICH_MISR_EL2(Register):
    EOI = field(0)
    U = field(1)
    LRENP = field(2)
    NP = field(3)
    VGrp0E = field(4)
    VGrp0D = field(5)
    VGrp1E = field(6)
    VGrp1D = field(7)
