# SPDX-License-Identifier: Apache-2.0
"""From the vectors to a handler and back: the only place that moves a guest's PC and changes worlds."""

from __future__ import annotations

import gz.core.advance as advance
import gz.core.counters as counters
import gz.core.exits as exits
import gz.core.host as host
import gz.core.kick as kick
import gz.core.resident as resident
import gz.core.stolen_time as stolen_time
import gz.core.timer as timer
import gz.core.trace as trace
import gz.core.vgic as vgic
import gz.core.watching as watching
import gz.core.world as world
from gz.abi.exits import ExitReason
from gz.arm64.registers import HCR_EL2
from gz.arm64.syndrome import ESR_EL2
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import MAINTENANCE_INTERRUPT, PMU_INTERRUPT, TimerInterrupt
from gz.core.context import Context
from gz.core.cpu import Cpu
from gz.core.outcome import Outcome
from gz.core.trace import Event
from gz.core.traps import TRAPS
from gz.core.vcpu import Vcpu
from gz.metal import cold, export, inline, store_release


@export
def lower_sync(context: Context) -> Context:
    vcpu = context.vcpu
    if vcpu is None:
        return host.sync(context)
    esr = ESR_EL2(sysreg.ESR_EL2)
    outcome = TRAPS[esr.EC](vcpu, esr)
    if outcome == Outcome.SKIP:
        advance.skip()
    elif outcome == Outcome.UNDEFINED:
        outcome = watching.undefined(vcpu, esr)
    if outcome == Outcome.LEAVE:
        return leave(vcpu)
    return resume(vcpu)


@export
def lower_irq(context: Context) -> Context:
    """Not acknowledged unless it is the guest's: whatever the host has to take stays pending for it."""
    vcpu = context.vcpu
    if vcpu is None:
        return context
    intid = sysreg.ICC_HPPIR1_EL1
    if intid == TimerInterrupt.EL1_VIRTUAL and timer.interrupt(vcpu):
        return resume(vcpu)
    if intid == MAINTENANCE_INTERRUPT and vgic.maintenance(vcpu):
        return resume(vcpu)
    if intid == TimerInterrupt.EL2_PHYSICAL and timer.hypervisor_interrupt(vcpu):
        return resume(vcpu)
    if intid == PMU_INTERRUPT and counters.interrupt(vcpu):
        return resume(vcpu)
    return interrupted(vcpu)


@export
def lower_fiq(context: Context) -> Context:
    """A kick (core/kick.py): some other CPU made an interrupt pending for the guest that runs here."""
    vcpu = context.vcpu
    if vcpu is None:
        return context
    kick.acknowledge()
    return resume(vcpu)


@export
def lower_serror(context: Context) -> Context:
    """AMO routes a guest's SError here; it gets it back as a virtual one (DDI 0487 D1.3.6)."""
    vcpu = context.vcpu
    if vcpu is None:
        return context
    context.hcr |= HCR_EL2(VSE=1)
    sysreg.HCR_EL2 = HCR_EL2(sysreg.HCR_EL2).replace(VSE=1)
    if watching.serror(vcpu, ESR_EL2(sysreg.ESR_EL2)) == Outcome.LEAVE:
        return leave(vcpu)
    return resume(vcpu)


@inline
def resume(vcpu: Vcpu) -> Context:
    if vcpu.gic.dirty != 0:
        vgic.flush(vcpu)
        if vcpu.gic.announce != 0:
            return announce(vcpu)
    return vcpu.context


@cold
def announce(vcpu: Vcpu) -> Context:
    """The guest gave a vCPU that sleeps in the host something to do (gzvm ABI 2.7)."""
    vcpu.gic.announce = 0
    stolen_time.stop(vcpu)
    vcpu.exit = ExitReason.IPI
    return leave(vcpu)


def leave(vcpu: Vcpu) -> Context:
    """To the host with the exit reason that a handler left in `vcpu.exit`."""
    if vcpu.vm.resident != 0:
        return resident.left(vcpu)
    cpu = vcpu.context.cpu
    context = cpu.host
    _back(cpu, vcpu)
    exits.publish(vcpu)
    context.x[0] = 0
    context.x[1] = vcpu.exit
    if cpu.by_doorbell != 0:
        advance.skip()
    store_release(vcpu.running, 0)
    return context


def interrupted(vcpu: Vcpu) -> Context:
    """To the host for a physical interrupt.  Through the doorbell the store is simply executed again afterwards."""
    stolen_time.stop(vcpu)
    cpu = vcpu.context.cpu
    vcpu.exit = ExitReason.IRQ
    if cpu.by_doorbell == 0:
        return leave(vcpu)
    _back(cpu, vcpu)
    store_release(vcpu.running, 0)
    return cpu.host


@inline
def _back(cpu: Cpu, vcpu: Vcpu) -> None:
    world.leave(cpu, vcpu)
    trace.record(cpu, Event.LEAVE, trace.of(vcpu), vcpu.context.elr, vcpu.exit)
