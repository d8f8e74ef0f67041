# SPDX-License-Identifier: Apache-2.0
"""One physical CPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gz.arm64.sysreg import sysreg
from gz.bits import Ptr, Struct, Va, storage, u32, u64
from gz.core.context import Context
from gz.core.trace import Ring
from gz.metal import inline, view

if TYPE_CHECKING:
    from gz.core.vcpu import Vcpu

CPU_COUNT_MAX = 8


class Cpu(Struct, align=64):
    host: Context  # first: the host's context is found at the CPU's address
    index: u32
    power: u32  # AffinityState, PSCI's view; OFF is left by compare_exchange
    mpidr: u64  # affinity bits only
    redistributor: Va  # this CPU's RD_base frame, SGI_base follows at 0x10000
    running: Ptr[Vcpu] | None
    extensions: u32  # what core/extensions.py has to switch on this CPU, 0: nothing
    by_doorbell: u32  # the RUN in progress came from a store: on an interrupt the store stays un-retired
    mdcr: u64  # MDCR_EL2: what the performance monitors of this CPU need, whoever runs
    kick_ready: u32  # SGI 15 has been put into Group 0 on this CPU
    turn: u32  # core/resident.py: the vCPU that was given time last
    dozing: u32  # the host waits and so does the core: a kick is heard
    given: u64  # and when, as CNTPCT_EL0 counts
    slice_end: u64  # until when it may run, 0: no such guest runs
    entry: u64  # PSCI CPU_ON: where the host starts on this CPU, and its x0
    entry_context: u64
    trace: Ring


CPUS = storage(Cpu, CPU_COUNT_MAX)


@inline
def this_cpu() -> Cpu:
    """The CPU that executes; TPIDR_EL2 holds the context below, and every context knows its CPU."""
    return view(Context, Va(sysreg.TPIDR_EL2)).cpu


import gz.core.vcpu  # noqa: E402, F401  (contexts refer to the struct)
