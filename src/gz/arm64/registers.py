# SPDX-License-Identifier: Apache-2.0
"""Fields of the control registers of EL1 and EL2 (DDI 0487, D24.2), under the manual's names.

Fields of the CPU interface of the GIC are in :mod:`gz.arm64.gic_interface`, of the ID registers in
:mod:`gz.arm64.features`, of the syndrome in :mod:`gz.arm64.syndrome`.
"""

from __future__ import annotations

from enum import IntEnum

from gz.bits import Register, field


class HCR_EL2(Register):
    VM = field(0)
    SWIO = field(1)
    PTW = field(2)
    FMO = field(3)
    IMO = field(4)
    AMO = field(5)
    VF = field(6)
    VI = field(7)
    VSE = field(8)
    FB = field(9)
    BSU = field(11, 10)
    DC = field(12)
    TWI = field(13)
    TWE = field(14)
    TID0 = field(15)
    TID1 = field(16)
    TID2 = field(17)
    TID3 = field(18)
    TSC = field(19)
    TIDCP = field(20)
    TACR = field(21)
    TSW = field(22)
    TPCP = field(23)
    TPU = field(24)
    TTLB = field(25)
    TVM = field(26)
    TGE = field(27)
    TDZ = field(28)
    HCD = field(29)
    TRVM = field(30)
    RW = field(31)
    CD = field(32)
    ID = field(33)
    E2H = field(34)
    TLOR = field(35)
    TERR = field(36)
    TEA = field(37)
    MIOCNCE = field(38)
    APK = field(40)
    API = field(41)
    NV = field(42)
    NV1 = field(43)
    AT = field(44)
    NV2 = field(45)
    FWB = field(46)
    FIEN = field(47)
    TID4 = field(49)
    TICAB = field(50)
    AMVOFFEN = field(51)
    TOCU = field(52)
    EnSCXT = field(53)
    TTLBIS = field(54)
    TTLBOS = field(55)
    ATA = field(56)
    DCT = field(57)
    TID5 = field(58)
    TWEDEn = field(59)
    TWEDEL = field(63, 60)


class HCRX_EL2(Register):
    EnAS0 = field(0)
    EnALS = field(1)
    EnASR = field(2)
    FnXS = field(3)
    FGTnXS = field(4)
    SMPME = field(5)
    TALLINT = field(6)
    VINMI = field(7)
    VFNMI = field(8)
    CMOW = field(9)
    MCE2 = field(10)
    MSCEn = field(11)
    TCR2En = field(14)
    SCTLR2En = field(15)


class MPAM2_EL2(Register):
    TRAPMPAM1EL1 = field(48)
    TRAPMPAM0EL1 = field(49)
    TIDR = field(58)
    MPAMEN = field(63)


class PMBIDR_EL1(Register):
    P = field(4)
    """The buffer is another security state's, or a higher level's: no register of it may be touched."""


class TRBIDR_EL1(Register):
    P = field(4)


class SVCR(Register):
    SM = field(0)
    """Streaming mode: vectors have SME's length."""
    ZA = field(1)


class SCTLR_EL2(Register):
    """With HCR_EL2.E2H = 0. RES1 bits: :data:`SCTLR_EL2_RES1`."""

    M = field(0)
    A = field(1)
    C = field(2)
    SA = field(3)
    nAA = field(6)
    EOS = field(11)
    EnDB = field(13)
    I = field(12)  # noqa: E741 - the manual's name
    WXN = field(19)
    IESB = field(21)
    EIS = field(22)
    EE = field(25)
    EnDA = field(27)
    EnIB = field(30)
    EnIA = field(31)
    BT = field(36)
    ATA = field(43)
    DSSBS = field(44)


SCTLR_EL2_RES1 = 0x30C5_0830
"""Bits 4, 5, 11, 16, 18, 22, 23, 28, 29: RES1 without later extensions; 11 and 22 (EOS, EIS) are wanted as 1."""


class SCTLR_EL1(Register):
    M = field(0)
    A = field(1)
    C = field(2)
    SA = field(3)
    SA0 = field(4)
    CP15BEN = field(5)
    nAA = field(6)
    ITD = field(7)
    SED = field(8)
    UMA = field(9)
    EnRCTX = field(10)
    EOS = field(11)
    I = field(12)  # noqa: E741 - the manual's name
    EnDB = field(13)
    DZE = field(14)
    UCT = field(15)
    nTWI = field(16)
    nTWE = field(18)
    WXN = field(19)
    TSCXT = field(20)
    IESB = field(21)
    EIS = field(22)
    SPAN = field(23)
    E0E = field(24)
    EE = field(25)
    UCI = field(26)
    EnDA = field(27)
    nTLSMD = field(28)
    LSMAOE = field(29)
    EnIB = field(30)
    EnIA = field(31)
    BT0 = field(35)
    BT1 = field(36)
    ATA0 = field(42)
    ATA = field(43)
    DSSBS = field(44)


SCTLR_EL1_RES1 = 0x30D0_0800
"""Bits 11, 20, 22, 23, 28, 29: RES1 without later extensions; with them what reset software expects."""


class TCR_EL1(Register):
    T0SZ = field(5, 0)
    EPD0 = field(7)
    IRGN0 = field(9, 8)
    ORGN0 = field(11, 10)
    SH0 = field(13, 12)
    TG0 = field(15, 14)
    T1SZ = field(21, 16)
    A1 = field(22)
    EPD1 = field(23)
    IRGN1 = field(25, 24)
    ORGN1 = field(27, 26)
    SH1 = field(29, 28)
    TG1 = field(31, 30)
    IPS = field(34, 32)
    AS = field(36)
    TBI0 = field(37)
    TBI1 = field(38)
    HA = field(39)
    HD = field(40)


class TCR_EL2(Register):
    """With HCR_EL2.E2H = 0. RES1 bits: :data:`TCR_EL2_RES1`."""

    T0SZ = field(5, 0)
    IRGN0 = field(9, 8)
    ORGN0 = field(11, 10)
    SH0 = field(13, 12)
    TG0 = field(15, 14)
    PS = field(18, 16)
    TBI = field(20)
    HA = field(21)
    HD = field(22)
    HPD = field(24)
    TBID = field(29)
    TCMA = field(30)
    DS = field(32)


TCR_EL2_RES1 = 1 << 31 | 1 << 23


class VTCR_EL2(Register):
    """RES1 bit: :data:`VTCR_EL2_RES1`."""

    T0SZ = field(5, 0)
    SL0 = field(7, 6)
    IRGN0 = field(9, 8)
    ORGN0 = field(11, 10)
    SH0 = field(13, 12)
    TG0 = field(15, 14)
    PS = field(18, 16)
    VS = field(19)
    """16-bit VMIDs."""
    HA = field(21)
    HD = field(22)
    NSW = field(29)
    NSA = field(30)
    DS = field(32)
    SL2 = field(33)


VTCR_EL2_RES1 = 1 << 31


class VTTBR_EL2(Register):
    CnP = field(0)
    BADDR = field(47, 1)
    """Bits 47:1 of the table's address."""
    VMID = field(63, 48)


class TTBR_EL1(Register):
    CnP = field(0)
    BADDR = field(47, 1)
    ASID = field(63, 48)


class CPTR_EL2(Register):
    """With HCR_EL2.E2H = 0: 1 traps. RES1 bits: :data:`CPTR_EL2_RES1`."""

    TZ = field(8)
    TFP = field(10)
    TSM = field(12)
    TTA = field(20)
    TAM = field(30)
    TCPAC = field(31)


CPTR_EL2_RES1 = 0x32FF
"""Bits 13, 12, 9 and 7:0. Bit 12 is TSM where there is SME; TZ is RES1 where there is no SVE."""


class CPACR_EL1(Register):
    ZEN = field(17, 16)
    FPEN = field(21, 20)
    SMEN = field(25, 24)
    TTA = field(28)


class MDCR_EL2(Register):
    HPMN = field(4, 0)
    TPMCR = field(5)
    TPM = field(6)
    HPME = field(7)
    TDE = field(8)
    TDA = field(9)
    TDOSA = field(10)
    TDRA = field(11)
    E2PB = field(13, 12)
    TPMS = field(14)
    HPMD = field(17)
    TTRF = field(19)
    HCCD = field(23)
    E2TB = field(25, 24)
    HLP = field(26)
    TDCC = field(27)
    MTPME = field(28)
    HPMFZO = field(29)


class CNTHCTL_EL2(Register):
    """With HCR_EL2.E2H = 0."""

    EL1PCTEN = field(0)
    """0 traps CNTPCT_EL0."""
    EL1PCEN = field(1)
    """0 traps the CNTP_* registers."""
    EVNTEN = field(2)
    EVNTDIR = field(3)
    EVNTI = field(7, 4)
    ECV = field(12)
    EL1TVT = field(13)
    """1 traps the CNTV_* registers (FEAT_ECV)."""
    EL1TVCT = field(14)


class CNTKCTL_EL1(Register):
    EL0PCTEN = field(0)
    EL0VCTEN = field(1)
    EVNTEN = field(2)
    EVNTDIR = field(3)
    EVNTI = field(7, 4)
    EL0VTEN = field(8)
    EL0PTEN = field(9)


class Mode(IntEnum):
    """SPSR_ELx.M of AArch64 states."""

    EL0T = 0b0000
    EL1T = 0b0100
    EL1H = 0b0101
    EL2T = 0b1000
    EL2H = 0b1001


class SPSR(Register):
    """SPSR_ELx for an exception from AArch64, and PSTATE where it is passed as a value."""

    M = field(3, 0)
    """A :class:`Mode`."""
    AArch32 = field(4)
    F = field(6)
    I = field(7)  # noqa: E741 - the manual's name
    A = field(8)
    D = field(9)
    BTYPE = field(11, 10)
    SSBS = field(12)
    ALLINT = field(13)
    IL = field(20)
    SS = field(21)
    PAN = field(22)
    UAO = field(23)
    DIT = field(24)
    TCO = field(25)
    V = field(28)
    C = field(29)
    Z = field(30)
    N = field(31)


class SPSR_AArch32(Register):
    """SPSR_ELx for an exception from AArch32, where it differs."""

    T = field(5)
    IT7_2 = field(15, 10)
    SS = field(21)
    IT1_0 = field(26, 25)


class HPFAR_EL2(Register):
    FIPA = field(43, 4)
    """Bits 51:12 of the faulting IPA."""
    NS = field(63)


class MPIDR_EL1(Register):
    Aff0 = field(7, 0)
    Aff1 = field(15, 8)
    Aff2 = field(23, 16)
    MT = field(24)
    U = field(30)
    RES1 = field(31)
    Aff3 = field(39, 32)


MPIDR_AFFINITY = 0xFF_00FF_FFFF
"""The affinity bits of MPIDR_EL1, as PSCI and the device tree pass them."""


class Implementer(IntEnum):
    """Some of MIDR_EL1's."""

    ARM = 0x41
    NVIDIA = 0x4E
    MICROSOFT = 0x6D


class MIDR_EL1(Register):
    Revision = field(3, 0)
    PartNum = field(15, 4)
    Architecture = field(19, 16)
    Variant = field(23, 20)
    Implementer = field(31, 24)


class CTR_EL0(Register):
    IminLine = field(3, 0)
    """log2 of the words in the smallest line."""
    L1Ip = field(15, 14)
    DminLine = field(19, 16)
    ERG = field(23, 20)
    CWG = field(27, 24)
    IDC = field(28)
    DIC = field(29)


class PAR_EL1(Register):
    """Result of an address translation that did not abort (F = 0)."""

    F = field(0)
    SH = field(8, 7)
    NS = field(9)
    PA = field(51, 12)
    """Bits 51:12 of the output address."""
    ATTR = field(63, 56)


class PAR_EL1_FAULT(Register):
    """Result of an address translation that aborted (F = 1)."""

    F = field(0)
    FST = field(6, 1)
    """A :class:`gz.arm64.syndrome.FaultStatus`."""
    PTW = field(8)
    """A stage 2 fault on a stage 1 table walk."""
    S = field(9)
    """The fault is of stage 2."""


class PMCR_EL0(Register):
    E = field(0)
    P = field(1)
    C = field(2)
    D = field(3)
    X = field(4)
    DP = field(5)
    LC = field(6)
    LP = field(7)
    N = field(15, 11)


class PMEVTYPER(Register):
    """PMEVTYPER<n>_EL0, and PMCCFILTR_EL0 without an event."""

    evtCount = field(15, 0)
    M = field(26)
    NSH = field(27)
    """1: EL2 counts too."""
    NSU = field(28)
    NSK = field(29)
    U = field(30)
    """1: EL0 does not count."""
    P = field(31)
    """1: EL1 does not count."""


class MDSCR_EL1(Register):
    SS = field(0)
    TDCC = field(12)
    KDE = field(13)
    MDE = field(15)


class OSLSR_EL1(Register):
    OSLM0 = field(0)
    OSLK = field(1)
    """1: the OS lock is set."""
    nTT = field(2)
    OSLM1 = field(3)
    """1, with OSLM0 = 0: there is an OS lock."""


class DBGBCR(Register):
    """DBGBCR<n>_EL1."""

    E = field(0)
    PMC = field(2, 1)
    BAS = field(8, 5)
    HMC = field(13)
    SSC = field(15, 14)
    LBN = field(19, 16)
    BT = field(23, 20)


class DBGWCR(Register):
    """DBGWCR<n>_EL1."""

    E = field(0)
    PAC = field(2, 1)
    LSC = field(4, 3)
    BAS = field(12, 5)
    HMC = field(13)
    SSC = field(15, 14)
    LBN = field(19, 16)
    WT = field(20)
    MASK = field(28, 24)


class ZCR(Register):
    """ZCR_EL1 and ZCR_EL2."""

    LEN = field(3, 0)
