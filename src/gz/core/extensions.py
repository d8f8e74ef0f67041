# SPDX-License-Identifier: Apache-2.0
"""Extensions that EL1 has only with a word from EL2, or that see whoever runs: the host has them, guests do not.

What guests are not told about must trap (fine-grained traps, HCRX_EL2, MPAM2_EL2), or be switched where nothing traps
it. Few CPUs have any of this: the others pay for one test at a world switch.
"""

from __future__ import annotations

import gz.core.recorders as recorders
from gz.arm64.features import (
    ID_AA64ISAR1_EL1,
    ID_AA64ISAR2_EL1,
    ID_AA64MMFR0_EL1,
    ID_AA64MMFR1_EL1,
    ID_AA64MMFR3_EL1,
    ID_AA64PFR0_EL1,
    ID_AA64PFR1_EL1,
)
from gz.arm64.registers import HCRX_EL2, MPAM2_EL2
from gz.arm64.sysreg import sysreg
from gz.bits import u32, u64
from gz.core.context import Context
from gz.core.cpu import Cpu
from gz.metal import cold

#: Kinds, as bits.
FINE_TRAPS = 1 << 0  # FEAT_FGT
FINE_TRAPS_2 = 1 << 1
EXTENDED = 1 << 2  # FEAT_HCX
STREAMING = 1 << 3  # FEAT_SME
PARTITIONING = 1 << 4  # FEAT_MPAM
RECORDING = 1 << 5  # core/recorders.py

#: Fields of the fine-grained traps that let something through; in a guest everything is 0 and these trap.
_READ_WRITE_GRANTS = 0xFFF4_0000_0000_0000  # HFGRTR_EL2, HFGWTR_EL2
_INSTRUCTION_GRANTS = 0x1F << 55  # HFGITR_EL2: GCS, branch records
_DEBUG_READ_GRANTS = 1 << 62 | 7 << 59  # HDFGRTR_EL2: PMSNEVFR, branch records
_DEBUG_WRITE_GRANTS = 1 << 62 | 3 << 60  # HDFGWTR_EL2
_ALL = 0xFFFF_FFFF_FFFF_FFFF

_GUEST_MPAM = MPAM2_EL2(TIDR=1, TRAPMPAM0EL1=1, TRAPMPAM1EL1=1)


def survey(cpu: Cpu) -> u32:
    """The kinds that this CPU, which executes, has."""
    pfr0 = ID_AA64PFR0_EL1(sysreg.ID_AA64PFR0_EL1)
    pfr1 = ID_AA64PFR1_EL1(sysreg.ID_AA64PFR1_EL1)
    fine = ID_AA64MMFR0_EL1(sysreg.ID_AA64MMFR0_EL1).FGT
    kinds: u32 = 0
    if fine != 0:
        kinds |= FINE_TRAPS
    if fine >= 2:
        kinds |= FINE_TRAPS_2
    if ID_AA64MMFR1_EL1(sysreg.ID_AA64MMFR1_EL1).HCX != 0:
        kinds |= EXTENDED
    if pfr1.SME != 0:
        kinds |= STREAMING
    if pfr0.MPAM != 0 or pfr1.MPAM_frac != 0:
        kinds |= PARTITIONING
    if recorders.survey(cpu):
        kinds |= RECORDING
    return kinds


def host_hcrx() -> u64:
    isar1 = ID_AA64ISAR1_EL1(sysreg.ID_AA64ISAR1_EL1)
    mmfr3 = ID_AA64MMFR3_EL1(sysreg.ID_AA64MMFR3_EL1)
    value = HCRX_EL2(0)
    if isar1.LS64 != 0:
        value = value.replace(EnAS0=1, EnALS=1, EnASR=1)
    if ID_AA64ISAR2_EL1(sysreg.ID_AA64ISAR2_EL1).MOPS != 0:
        value = value.replace(MSCEn=1)
    if mmfr3.TCRX != 0:
        value = value.replace(TCR2En=1)
    if mmfr3.SCTLRX != 0:
        value = value.replace(SCTLR2En=1)
    return value


def grant(kinds: u32, context: Context) -> None:
    """What the host lives under."""
    if kinds & FINE_TRAPS != 0:
        sysreg.HFGRTR_EL2 = _READ_WRITE_GRANTS
        sysreg.HFGWTR_EL2 = _READ_WRITE_GRANTS
        sysreg.HFGITR_EL2 = _INSTRUCTION_GRANTS
        sysreg.HDFGRTR_EL2 = _DEBUG_READ_GRANTS
        sysreg.HDFGWTR_EL2 = _DEBUG_WRITE_GRANTS
    if kinds & FINE_TRAPS_2 != 0:
        _fine_traps_2(_ALL)
    if kinds & EXTENDED != 0:
        sysreg.HCRX_EL2 = context.hcrx
    if kinds & PARTITIONING != 0:
        sysreg.MPAM2_EL2 = 0


def withhold(kinds: u32) -> None:
    """What guests live under."""
    if kinds & FINE_TRAPS != 0:
        sysreg.HFGRTR_EL2 = 0
        sysreg.HFGWTR_EL2 = 0
        sysreg.HFGITR_EL2 = 0
        sysreg.HDFGRTR_EL2 = 0
        sysreg.HDFGWTR_EL2 = 0
    if kinds & FINE_TRAPS_2 != 0:
        _fine_traps_2(0)
    if kinds & EXTENDED != 0:
        sysreg.HCRX_EL2 = 0
    if kinds & PARTITIONING != 0:
        sysreg.MPAM2_EL2 = _GUEST_MPAM


def _fine_traps_2(value: u64) -> None:
    sysreg.HFGRTR2_EL2 = value
    sysreg.HFGWTR2_EL2 = value
    sysreg.HFGITR2_EL2 = value
    sysreg.HDFGRTR2_EL2 = value
    sysreg.HDFGWTR2_EL2 = value


@cold
def enter(kinds: u32, host: Context, guest: Context) -> None:
    if kinds & RECORDING != 0:
        recorders.stop(host.cpu)
    withhold(kinds)
    _switch(kinds, host, guest)


@cold
def leave(kinds: u32, host: Context, guest: Context) -> None:
    """Once EL1's registers and stage 2 are the host's."""
    _switch(kinds, guest, host)
    grant(kinds, host)
    if kinds & RECORDING != 0:
        recorders.resume(host.cpu)


def _switch(kinds: u32, old: Context, new: Context) -> None:
    """SME's registers that CPTR_EL2.TSM does not trap, for CPUs that do not trap them otherwise."""
    if kinds & STREAMING != 0:
        old.tpidr2 = sysreg.TPIDR2_EL0
        old.smpri = sysreg.SMPRI_EL1
        sysreg.TPIDR2_EL0 = new.tpidr2
        sysreg.SMPRI_EL1 = new.smpri
