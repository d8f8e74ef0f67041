# SPDX-License-Identifier: Apache-2.0
"""What guests read in the identification registers (HCR_EL2.TID3): the CPU's features as far as the core keeps them up.

A field that no row keeps or limits reads zero: the feature is hidden, and its registers and instructions trap
(core/sysregs.py, core/traps.py) or do nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import gz.core.counters as counters
from gz.arm64.features import (
    ID_AA64DFR0_EL1,
    ID_AA64ISAR0_EL1,
    ID_AA64ISAR1_EL1,
    ID_AA64ISAR2_EL1,
    ID_AA64MMFR0_EL1,
    ID_AA64MMFR1_EL1,
    ID_AA64MMFR2_EL1,
    ID_AA64PFR0_EL1,
    ID_AA64PFR1_EL1,
    ID_AA64ZFR0_EL1,
)
from gz.arm64.insn import read
from gz.arm64.sysreg import SysRegs
from gz.bits import Register, u64
from gz.bits.register import BitField
from gz.metal import inline, unroll

ALL = (1 << 64) - 1


class Identity(NamedTuple):
    """One register: fields that pass, those that pass up to a version, or from one on, fields with a fixed value;
    the reason."""

    register: Any  # a SysReg; as a descriptor it would read as a number in the annotation
    kind: type[Register] | None
    reason: str
    keep: tuple[str, ...] = ()
    limit: Mapping[str, int] = {}
    least: Mapping[str, int] = {}
    fixed: Mapping[str, int] = {}
    keep_mask: int = 0  # where there are no names

    @property
    def number(self) -> int:
        """CRm, op2."""
        return self.register.crm << 3 | self.register.op2

    @property
    def kept(self) -> int:
        mask = self.keep_mask
        for name in (*self.keep, *self.limit):
            mask |= self._bits(name).mask
        return mask

    @property
    def limits(self) -> tuple[tuple[int, int], ...]:
        """Lowest bit of a field and the most it may say."""
        return tuple((self._bits(name).low, most) for name, most in self.limit.items())

    @property
    def leasts(self) -> tuple[tuple[int, int], ...]:
        """Lowest bit of a field and the least it may say; below, and for 15, "not by this architecture", it reads 0."""
        return tuple((self._bits(name).low, least) for name, least in self.least.items())

    @property
    def added(self) -> int:
        return sum(value << self._bits(name).low for name, value in self.fixed.items())

    def _bits(self, name: str) -> BitField:
        assert self.kind is not None
        return self.kind.FIELDS[name]


_AARCH32 = "AArch32 at EL0 is the CPU's own"

IDENTITIES: tuple[Identity, ...] = (
    Identity(
        SysRegs.ID_AA64PFR0_EL1,
        ID_AA64PFR0_EL1,
        "EL1 is AArch64 and there is no level above; SVE is switched lazily; RAS, MPAM, activity monitors, realms are "
        "hidden; CSV2 up to 1, as the SCXTNUM registers of 2 are not switched",
        keep=("EL0", "FP", "AdvSIMD", "SVE", "DIT", "CSV3"),
        limit={"CSV2": 1},
        fixed={"EL1": 1, "GIC": 1},
    ),
    Identity(
        SysRegs.ID_AA64PFR1_EL1,
        ID_AA64PFR1_EL1,
        "memory tags, SME, NMI and what needs registers that are not switched are hidden",
        keep=("BT", "SSBS"),
    ),
    Identity(
        SysRegs.ID_AA64ZFR0_EL1,
        ID_AA64ZFR0_EL1,
        "plain instructions of SVE",
        keep=tuple(ID_AA64ZFR0_EL1.FIELDS),
    ),
    Identity(
        SysRegs.ID_AA64DFR0_EL1,
        ID_AA64DFR0_EL1,
        "break- and watchpoints as many as the CPU has, debug up to Armv8.2, as later versions change external debug; "
        "no trace, profiling, double lock; a PMU if EL2's events can be kept out of it (FEAT_PMUv3p1), up to "
        "FEAT_PMUv3p8, as later ones have more registers",
        keep=("BRPs", "WRPs", "CTX_CMPs"),
        limit={"DebugVer": 8, "PMUVer": counters.VERSION_MAX},
        least={"PMUVer": counters.VERSION_MIN},
        fixed={"DoubleLock": 15},
    ),
    Identity(
        SysRegs.ID_AA64ISAR0_EL1,
        ID_AA64ISAR0_EL1,
        "plain instructions; transactions are hidden",
        keep=(
            "AES",
            "SHA1",
            "SHA2",
            "CRC32",
            "Atomic",
            "RDM",
            "SHA3",
            "SM3",
            "SM4",
            "DP",
            "FHM",
            "TS",
            "TLB",
            "RNDR",
        ),
    ),
    Identity(
        SysRegs.ID_AA64ISAR1_EL1,
        ID_AA64ISAR1_EL1,
        "plain instructions and pointer authentication, whose keys are switched; LS64 and XS are hidden",
        keep=(
            "DPB",
            "APA",
            "API",
            "JSCVT",
            "FCMA",
            "LRCPC",
            "GPA",
            "GPI",
            "FRINTTS",
            "SB",
            "SPECRES",
            "BF16",
            "DGH",
            "I8MM",
        ),
    ),
    Identity(
        SysRegs.ID_AA64ISAR2_EL1,
        ID_AA64ISAR2_EL1,
        "plain instructions and pointer authentication; waits with a timeout and memory copies need EL2's help: hidden",
        keep=("RPRES", "GPA3", "APA3", "BC", "PAC_frac", "CLRBHB", "CSSC", "RPRFM"),
    ),
    Identity(
        SysRegs.ID_AA64MMFR0_EL1,
        ID_AA64MMFR0_EL1,
        "40 bits of address, as stage 2 has; no fine-grained traps, no other counter views; ExS hidden",
        keep=("ASIDBits", "BigEnd", "BigEndEL0", "TGran16", "TGran64", "TGran4"),
        limit={"PARange": 2},
    ),
    Identity(
        SysRegs.ID_AA64MMFR1_EL1,
        ID_AA64MMFR1_EL1,
        "stage 1 features; virtualisation's own, LORegions and HCRX_EL2's are hidden; access flags of tables "
        "(HAFDBS 3) too, as TCR2_EL1 enables them",
        keep=("HPDS", "PAN", "ETS", "AFP", "nTLBPA", "ECBHB"),
        limit={"HAFDBS": 2},
    ),
    Identity(
        SysRegs.ID_AA64MMFR2_EL1,
        ID_AA64MMFR2_EL1,
        "stage 1 features; IESB belongs to RAS, the rest to virtualisation",
        keep=("CnP", "UAO", "LSM", "VARange", "CCIDX", "ST", "AT", "IDS", "TTL", "BBM", "E0PD"),
    ),
    Identity(SysRegs.ID_PFR0_EL1, None, f"{_AARCH32}; RAS and activity monitors hidden", keep_mask=0x0F0F_FFFF),
    Identity(SysRegs.ID_PFR1_EL1, None, f"{_AARCH32}; no security or virtualisation", keep_mask=0xF00F_0F0F),
    Identity(SysRegs.ID_PFR2_EL1, None, f"{_AARCH32}; CSV3 and SSBS", keep_mask=0xFF),
    Identity(SysRegs.ID_DFR0_EL1, None, f"{_AARCH32}; debug architecture only", keep_mask=0xF),
    *(
        Identity(register, None, _AARCH32, keep_mask=ALL)
        for register in (
            SysRegs.ID_MMFR0_EL1,
            SysRegs.ID_MMFR1_EL1,
            SysRegs.ID_MMFR2_EL1,
            SysRegs.ID_MMFR3_EL1,
            SysRegs.ID_MMFR4_EL1,
            SysRegs.ID_MMFR5_EL1,
            SysRegs.ID_ISAR0_EL1,
            SysRegs.ID_ISAR1_EL1,
            SysRegs.ID_ISAR2_EL1,
            SysRegs.ID_ISAR3_EL1,
            SysRegs.ID_ISAR4_EL1,
            SysRegs.ID_ISAR5_EL1,
            SysRegs.ID_ISAR6_EL1,
            SysRegs.MVFR0_EL1,
            SysRegs.MVFR1_EL1,
            SysRegs.MVFR2_EL1,
        )
    ),
    *(
        Identity(register, None, f"hidden: {reason}")
        for register, reason in (
            (SysRegs.ID_AFR0_EL1, "implementation defined"),
            (SysRegs.ID_AA64AFR0_EL1, "implementation defined"),
            (SysRegs.ID_AA64AFR1_EL1, "implementation defined"),
            (SysRegs.ID_DFR1_EL1, "multi-threaded PMU and later debug extensions"),
            (SysRegs.ID_AA64DFR1_EL1, "later debug extensions, whose registers are not switched"),
            (SysRegs.ID_AA64DFR2_EL1, "later debug extensions, whose registers are not switched"),
            (SysRegs.ID_AA64PFR2_EL1, "memory tags and what came after Armv9.4"),
            (SysRegs.ID_AA64SMFR0_EL1, "SME"),
            (SysRegs.ID_AA64FPFR0_EL1, "FP8, whose FPMR is not switched"),
            (SysRegs.ID_AA64ISAR3_EL1, "what came after Armv9.4"),
            (SysRegs.ID_AA64MMFR3_EL1, "TCR2_EL1, SCTLR2_EL1, permission indirection and overlays are not switched"),
            (SysRegs.ID_AA64MMFR4_EL1, "what came after Armv9.4"),
        )
    ),
)

#: Those that say anything.
_ROWS = tuple(
    (identity.number, identity.register, identity.kept, identity.leasts, identity.limits, identity.added)
    for identity in IDENTITIES
    if identity.kept | identity.added
)


def value(index: u64) -> u64:
    """Of the register at CRm << 3 | op2; all others there are hidden and read zero."""
    for number, register, kept, leasts, limits, added in unroll(_ROWS):
        if index == number:
            result = (read(register) & kept) | added
            for low, least in unroll(leasts):
                result = _from(result, low, least)
            for low, most in unroll(limits):
                result = _limited(result, low, most)
            return result
    return 0


@inline
def _from(word: u64, low: u64, least: u64) -> u64:
    version = word >> low & 0xF
    return word - (version << low) if version < least or version == 0xF else word


@inline
def _limited(word: u64, low: u64, most: u64) -> u64:
    version = word >> low & 0xF
    return word - (version - min(version, most) << low)
