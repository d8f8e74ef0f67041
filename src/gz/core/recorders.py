# SPDX-License-Identifier: Apache-2.0
"""What writes down where a CPU executes: statistical profiling, trace and branch records (DDI 0487, D5, D6, D15, D17).

They are the host's, are switched on by registers of EL1, and go on at EL1 whoever runs there. Their buffers belong to
the exception level that MDCR_EL2 names, so one left enabled while a guest runs would be written through EL2's own
translations, at an address of the host's choice. So they stop and are drained before a guest is entered.
"""

from __future__ import annotations

from gz.arm64.features import ID_AA64DFR0_EL1
from gz.arm64.insn import dsb, hint, isb
from gz.arm64.registers import PMBIDR_EL1, TRBIDR_EL1
from gz.arm64.sysreg import sysreg
from gz.bits import Struct, storage, u32, u64
from gz.core.cpu import CPU_COUNT_MAX, Cpu
from gz.metal import cold


class Recorders(Struct):
    """A CPU's, and its host's settings while a guest runs."""

    profiling: u32  # 1: there is such a thing, and this security state has it
    filters: u32
    trace: u32
    branches: u32
    samples: u64  # PMSCR_EL1
    sample_limit: u64  # PMBLIMITR_EL1
    traced: u64  # TRFCR_EL1
    trace_limit: u64  # TRBLIMITR_EL1
    recorded: u64  # BRBCR_EL1


RECORDERS = storage(Recorders, CPU_COUNT_MAX)


def survey(cpu: Cpu) -> bool:
    """Once per CPU, at EL2 where nothing is recorded from now on. True: there are some."""
    dfr0 = ID_AA64DFR0_EL1(sysreg.ID_AA64DFR0_EL1)
    own = RECORDERS[cpu.index]
    if dfr0.PMSVer != 0 and PMBIDR_EL1(sysreg.PMBIDR_EL1).P == 0:
        own.profiling = 1
        sysreg.PMSCR_EL2 = 0
    if dfr0.TraceFilt != 0:
        own.filters = 1
        sysreg.TRFCR_EL2 = 0
    if dfr0.TraceBuffer != 0 and TRBIDR_EL1(sysreg.TRBIDR_EL1).P == 0:
        own.trace = 1
    if dfr0.BRBE != 0:
        own.branches = 1
        sysreg.BRBCR_EL2 = 0
    return own.profiling | own.filters | own.trace | own.branches != 0


@cold
def stop(cpu: Cpu) -> None:
    """Before stage 2 is the guest's: what is still on its way goes into the host's buffers."""
    own = RECORDERS[cpu.index]
    if own.profiling != 0:
        own.samples = sysreg.PMSCR_EL1
        sysreg.PMSCR_EL1 = 0
        isb()
        hint("psb csync")
        dsb("nsh")
        own.sample_limit = sysreg.PMBLIMITR_EL1
        sysreg.PMBLIMITR_EL1 = 0
    if own.filters != 0:
        own.traced = sysreg.TRFCR_EL1
        sysreg.TRFCR_EL1 = 0
        isb()
        hint("tsb csync")
    if own.trace != 0:
        dsb("nsh")
        own.trace_limit = sysreg.TRBLIMITR_EL1
        sysreg.TRBLIMITR_EL1 = 0
    if own.branches != 0:
        own.recorded = sysreg.BRBCR_EL1
        sysreg.BRBCR_EL1 = 0
    isb()


@cold
def resume(cpu: Cpu) -> None:
    """Once stage 2 and MDCR_EL2 are the host's again."""
    own = RECORDERS[cpu.index]
    if own.profiling != 0:
        sysreg.PMBLIMITR_EL1 = own.sample_limit
        isb()
        sysreg.PMSCR_EL1 = own.samples
    if own.trace != 0:
        sysreg.TRBLIMITR_EL1 = own.trace_limit
        isb()
    if own.filters != 0:
        sysreg.TRFCR_EL1 = own.traced
    if own.branches != 0:
        sysreg.BRBCR_EL1 = own.recorded
