# SPDX-License-Identifier: Apache-2.0
"""Fields of the ID registers (DDI 0487, D24.2); a field is a version, 0 mostly meaning "not there"."""

from __future__ import annotations

from gz.bits import Register, field


class ID_AA64PFR0_EL1(Register):
    EL0 = field(3, 0)
    EL1 = field(7, 4)
    EL2 = field(11, 8)
    EL3 = field(15, 12)
    FP = field(19, 16)
    """0 half precision not, 1 there; 15: no floating point."""
    AdvSIMD = field(23, 20)
    GIC = field(27, 24)
    RAS = field(31, 28)
    SVE = field(35, 32)
    SEL2 = field(39, 36)
    MPAM = field(43, 40)
    AMU = field(47, 44)
    DIT = field(51, 48)
    RME = field(55, 52)
    CSV2 = field(59, 56)
    CSV3 = field(63, 60)


class ID_AA64PFR1_EL1(Register):
    BT = field(3, 0)
    SSBS = field(7, 4)
    MTE = field(11, 8)
    RAS_frac = field(15, 12)
    MPAM_frac = field(19, 16)
    SME = field(27, 24)
    RNDR_trap = field(31, 28)
    CSV2_frac = field(35, 32)
    NMI = field(39, 36)
    MTE_frac = field(43, 40)
    GCS = field(47, 44)
    THE = field(51, 48)
    MTEX = field(55, 52)
    DF2 = field(59, 56)
    PFAR = field(63, 60)


class ID_AA64ZFR0_EL1(Register):
    """Of SVE; 0 without."""

    SVEver = field(3, 0)
    AES = field(7, 4)
    EltPerm = field(15, 12)
    BitPerm = field(19, 16)
    BF16 = field(23, 20)
    B16B16 = field(27, 24)
    SHA3 = field(35, 32)
    SM4 = field(43, 40)
    I8MM = field(47, 44)
    F32MM = field(55, 52)
    F64MM = field(59, 56)


class ID_AA64SMFR0_EL1(Register):
    FA64 = field(63)
    """All of A64 in streaming mode, FFR included."""


class ID_AA64DFR0_EL1(Register):
    DebugVer = field(3, 0)
    TraceVer = field(7, 4)
    PMUVer = field(11, 8)
    """1 PMUv3 … 8 PMUv3p8; 15: not by this architecture."""
    BRPs = field(15, 12)
    """Breakpoints minus 1."""
    PMSS = field(19, 16)
    WRPs = field(23, 20)
    SEBEP = field(27, 24)
    CTX_CMPs = field(31, 28)
    PMSVer = field(35, 32)
    DoubleLock = field(39, 36)
    TraceFilt = field(43, 40)
    TraceBuffer = field(47, 44)
    MTPMU = field(51, 48)
    BRBE = field(55, 52)
    ExtTrcBuff = field(59, 56)
    HPMN0 = field(63, 60)


class ID_AA64ISAR0_EL1(Register):
    AES = field(7, 4)
    SHA1 = field(11, 8)
    SHA2 = field(15, 12)
    CRC32 = field(19, 16)
    Atomic = field(23, 20)
    TME = field(27, 24)
    RDM = field(31, 28)
    SHA3 = field(35, 32)
    SM3 = field(39, 36)
    SM4 = field(43, 40)
    DP = field(47, 44)
    FHM = field(51, 48)
    TS = field(55, 52)
    TLB = field(59, 56)
    RNDR = field(63, 60)


class ID_AA64ISAR1_EL1(Register):
    DPB = field(3, 0)
    APA = field(7, 4)
    API = field(11, 8)
    JSCVT = field(15, 12)
    FCMA = field(19, 16)
    LRCPC = field(23, 20)
    GPA = field(27, 24)
    GPI = field(31, 28)
    FRINTTS = field(35, 32)
    SB = field(39, 36)
    SPECRES = field(43, 40)
    BF16 = field(47, 44)
    DGH = field(51, 48)
    I8MM = field(55, 52)
    XS = field(59, 56)
    LS64 = field(63, 60)


class ID_AA64ISAR2_EL1(Register):
    WFxT = field(3, 0)
    RPRES = field(7, 4)
    GPA3 = field(11, 8)
    APA3 = field(15, 12)
    MOPS = field(19, 16)
    BC = field(23, 20)
    PAC_frac = field(27, 24)
    CLRBHB = field(31, 28)
    SYSREG_128 = field(35, 32)
    SYSINSTR_128 = field(39, 36)
    PRFMSLC = field(43, 40)
    RPRFM = field(51, 48)
    CSSC = field(55, 52)
    LUT = field(59, 56)
    ATS1A = field(63, 60)


class ID_AA64MMFR0_EL1(Register):
    PARange = field(3, 0)
    """See :data:`gz.arm64.descriptors.PA_BITS`."""
    ASIDBits = field(7, 4)
    BigEnd = field(11, 8)
    SNSMem = field(15, 12)
    BigEndEL0 = field(19, 16)
    TGran16 = field(23, 20)
    TGran64 = field(27, 24)
    TGran4 = field(31, 28)
    """0: 4 KiB granule, 1: also 52-bit addresses, 15: not supported."""
    TGran16_2 = field(35, 32)
    TGran64_2 = field(39, 36)
    TGran4_2 = field(43, 40)
    ExS = field(47, 44)
    FGT = field(59, 56)
    ECV = field(63, 60)


class ID_AA64MMFR1_EL1(Register):
    HAFDBS = field(3, 0)
    VMIDBits = field(7, 4)
    """0: 8 bits, 2: 16 bits."""
    VH = field(11, 8)
    HPDS = field(15, 12)
    LO = field(19, 16)
    PAN = field(23, 20)
    SpecSEI = field(27, 24)
    XNX = field(31, 28)
    TWED = field(35, 32)
    ETS = field(39, 36)
    HCX = field(43, 40)
    AFP = field(47, 44)
    nTLBPA = field(51, 48)
    TIDCP1 = field(55, 52)
    CMOW = field(59, 56)
    ECBHB = field(63, 60)


class ID_AA64MMFR2_EL1(Register):
    CnP = field(3, 0)
    UAO = field(7, 4)
    LSM = field(11, 8)
    IESB = field(15, 12)
    VARange = field(19, 16)
    CCIDX = field(23, 20)
    NV = field(27, 24)
    ST = field(31, 28)
    AT = field(35, 32)
    IDS = field(39, 36)
    FWB = field(43, 40)
    TTL = field(51, 48)
    BBM = field(55, 52)
    EVT = field(59, 56)
    E0PD = field(63, 60)


class ID_AA64MMFR3_EL1(Register):
    TCRX = field(3, 0)
    SCTLRX = field(7, 4)
    S1PIE = field(11, 8)
    S2PIE = field(15, 12)
    S1POE = field(19, 16)
    S2POE = field(23, 20)
    AIE = field(27, 24)
    MEC = field(31, 28)
    Spec_FPACC = field(63, 60)
