# SPDX-License-Identifier: Apache-2.0
"""Performance monitors (DDI 0487, D13): each world has all of the CPU's counters while it runs, the core never counts.

A guest's first access traps and puts its registers in the host's place, as for FP/SIMD; from then on they are the
guest's until it leaves the CPU.  One that counts or lets EL0 read has them from its entry on.  The host's counters
stand still while a guest runs.  What happens at EL2 is kept out by MDCR_EL2.HPMD, so there is a PMU for guests only
from FEAT_PMUv3p1 on.

The overflow interrupt (PPI 23) is a level.  It is not acknowledged but made active at the physical redistributor, and
inactive again when the guest has ended its own and the level is low.
"""

from __future__ import annotations

import gz.core.timer as timer
import gz.core.vgic as vgic
from gz.arm64.features import ID_AA64DFR0_EL1
from gz.arm64.insn import dsb, isb
from gz.arm64.registers import MDCR_EL2, PMCR_EL0
from gz.arm64.syndrome import SysRegTrap
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import PMU_INTERRUPT
from gz.bits import Held, storage, u32, u64
from gz.core.cpu import CPU_COUNT_MAX
from gz.core.interrupts import Vgic
from gz.core.monitors import EVENT_COUNTERS, Counters, HostCounters
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu
from gz.metal import cold, inline

#: ID_AA64DFR0_EL1.PMUVer of guests.
VERSION_MIN, VERSION_MAX = 4, 8
_FEAT_PMUV3P5 = 6
_FOREIGN = 15  # a PMU that is not of this architecture

_ALL = 0xFFFF_FFFF
_BIT = 1 << PMU_INTERRUPT
_TRAPS = MDCR_EL2(TPM=1, TPMCR=1)

HOST = storage(HostCounters, CPU_COUNT_MAX)


def mdcr() -> MDCR_EL2:
    """On each CPU, for host and guests alike: every counter is EL1's, none counts at EL2.  0: there are none."""
    version = ID_AA64DFR0_EL1(sysreg.ID_AA64DFR0_EL1).PMUVer
    value = MDCR_EL2(0)
    if version != 0 and version != _FOREIGN:
        value = value.replace(HPMN=PMCR_EL0(sysreg.PMCR_EL0).N)
        if version >= VERSION_MIN:
            value = value.replace(HPMD=1)
        if version >= _FEAT_PMUV3P5:
            value = value.replace(HCCD=1)
    return value


def reset(vcpu: Vcpu) -> None:
    """The vCPU doesn't run."""
    own = vcpu.counters.own
    own.control = 0
    own.enabled = 0
    own.interrupts = 0
    own.overflows = 0
    own.selected = 0
    own.user = 0
    own.cycles = 0
    own.cycle_filter = 0
    for n in range(EVENT_COUNTERS):
        own.count[n] = 0
        own.type[n] = 0
    vcpu.counters.wanted = 0


# World switch, on CPUs with performance monitors.


@inline
def enter(vcpu: Vcpu) -> None:
    """Before MDCR_EL2 is loaded."""
    control = PMCR_EL0(sysreg.PMCR_EL0)
    if control.E != 0:
        HOST[vcpu.context.cpu.index].counting = 1
        sysreg.PMCR_EL0 = control.replace(E=0)
    if vcpu.counters.wanted != 0:
        _load(vcpu)


@inline
def leave(vcpu: Vcpu) -> None:
    """Before the list registers are saved."""
    host = HOST[vcpu.context.cpu.index]
    if vcpu.counters.live != 0:
        _unload(vcpu)
    elif host.counting != 0:
        host.counting = 0
        sysreg.PMCR_EL0 = PMCR_EL0(sysreg.PMCR_EL0).replace(E=1)


@cold
def load(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    """A trapped access: it works when it is executed again.  Gives an Outcome."""
    if MDCR_EL2(vcpu.context.cpu.mdcr).HPMD == 0 or vcpu.counters.live != 0:
        return Outcome.UNDEFINED
    _load(vcpu)
    sysreg.MDCR_EL2 = vcpu.context.mdcr
    return Outcome.RESUME


@cold
def _load(vcpu: Vcpu) -> None:
    cpu = vcpu.context.cpu
    host = HOST[cpu.index]
    frame = timer.redistributor(cpu)
    if frame.ISENABLER0 & _BIT == 0:
        host.deaf = 1
        frame.ISENABLER0 = _BIT
    if vcpu.gic.private.line & _BIT != 0:
        frame.ISACTIVER0 = _BIT
        vcpu.counters.held = 1
    _save(host.own, cpu.mdcr)
    _put(vcpu.counters.own, cpu.mdcr)
    vcpu.counters.live = 1
    vcpu.context.mdcr &= ~_TRAPS


@cold
def _unload(vcpu: Vcpu) -> None:
    cpu = vcpu.context.cpu
    host = HOST[cpu.index]
    own = vcpu.counters.own
    _save(own, cpu.mdcr)
    locked = vgic.acquire(vcpu)
    _set_line(vcpu, locked, PMCR_EL0(own.control).E != 0 and own.overflows & own.interrupts != 0)
    vgic.release(locked)
    vcpu.counters.wanted = u32((PMCR_EL0(own.control).E != 0 and own.enabled != 0) or own.user != 0)
    vcpu.counters.live = 0
    frame = timer.redistributor(cpu)
    if host.deaf != 0:
        host.deaf = 0
        frame.ICENABLER0 = _BIT
    _release(vcpu)
    if host.counting != 0:
        host.counting = 0
        host.own.control |= PMCR_EL0(E=1)
    _put(host.own, cpu.mdcr)


def _save(state: Counters, monitors: u64) -> None:
    """And nothing counts or interrupts any more."""
    control = PMCR_EL0(sysreg.PMCR_EL0)
    state.control = control
    sysreg.PMCR_EL0 = control.replace(E=0)
    isb()
    state.interrupts = sysreg.PMINTENSET_EL1
    sysreg.PMINTENCLR_EL1 = _ALL
    state.enabled = sysreg.PMCNTENSET_EL0
    sysreg.PMCNTENCLR_EL0 = _ALL
    state.overflows = sysreg.PMOVSSET_EL0
    sysreg.PMOVSCLR_EL0 = _ALL
    state.selected = sysreg.PMSELR_EL0
    state.user = sysreg.PMUSERENR_EL0
    state.cycles = sysreg.PMCCNTR_EL0
    state.cycle_filter = sysreg.PMCCFILTR_EL0
    for n in range(MDCR_EL2(monitors).HPMN):
        sysreg.PMSELR_EL0 = n
        isb()
        state.count[n] = sysreg.PMXEVCNTR_EL0
        state.type[n] = sysreg.PMXEVTYPER_EL0


def _put(state: Counters, monitors: u64) -> None:
    for n in range(MDCR_EL2(monitors).HPMN):
        sysreg.PMSELR_EL0 = n
        isb()
        sysreg.PMXEVTYPER_EL0 = state.type[n]
        sysreg.PMXEVCNTR_EL0 = state.count[n]
    sysreg.PMCCFILTR_EL0 = state.cycle_filter
    sysreg.PMCCNTR_EL0 = state.cycles
    sysreg.PMSELR_EL0 = state.selected
    sysreg.PMUSERENR_EL0 = state.user
    sysreg.PMOVSSET_EL0 = state.overflows
    sysreg.PMCNTENSET_EL0 = state.enabled
    sysreg.PMCR_EL0 = state.control
    isb()
    sysreg.PMINTENSET_EL1 = state.interrupts


# The overflow interrupt.


def interrupt(vcpu: Vcpu) -> bool:
    """PPI 23 is pending on this CPU while the guest runs.  False: it is the host's."""
    if vcpu.counters.live == 0 or not _fires():
        return False
    timer.redistributor(vcpu.context.cpu).ISACTIVER0 = _BIT
    dsb("sy")
    vcpu.counters.held = 1
    locked = vgic.acquire(vcpu)
    _set_line(vcpu, locked, True)
    vgic.release(locked)
    return True


@inline
def resample(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """Once the guest has cleared the overflow the line is low."""
    if vcpu.counters.live != 0:
        _resample(vcpu, locked)


@cold
def _resample(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    if vcpu.gic.private.line & _BIT != 0 and not _fires():
        _set_line(vcpu, locked, False)
        _release(vcpu)


@inline
def _fires() -> bool:
    return PMCR_EL0(sysreg.PMCR_EL0).E != 0 and sysreg.PMOVSSET_EL0 & sysreg.PMINTENSET_EL1 != 0


def _set_line(vcpu: Vcpu, locked: Held[Vgic], high: bool) -> None:
    gic = vcpu.gic
    private = gic.private
    if (private.line & _BIT != 0) == high:
        return
    private.line ^= _BIT
    gic.dirty = 1
    if private.listed & _BIT != 0:
        gic.stale = 1  # what is in the list register knows nothing of it


@inline
def _release(vcpu: Vcpu) -> None:
    if vcpu.counters.held != 0:
        vcpu.counters.held = 0
        timer.redistributor(vcpu.context.cpu).ICACTIVER0 = _BIT
        dsb("sy")
