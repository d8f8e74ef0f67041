# SPDX-License-Identifier: Apache-2.0
"""Virtual and physical timer of guests, and the host's deadline while a guest has the CPU (DDI 0487, D12).

CNTV is the guest's own while it runs.  Its interrupt (PPI 27) is not acknowledged, which might take one of the
host's instead, but made active at the physical redistributor, and handed on in a list register with HW set: the
guest's own end of interrupt makes it inactive again.  CNTP traps and is emulated: its deadline and the host's CNTV
deadline share CNTHP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.list_registers as list_registers
import gz.core.vgic as vgic
from gz.arm64.gic import FRAME_SIZE, GicrSgi
from gz.arm64.insn import dsb, isb
from gz.arm64.registers import CNTHCTL_EL2
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL, MAINTENANCE_INTERRUPT, TimerInterrupt
from gz.bits import Held, storage, u32, u64
from gz.core.cpu import CPU_COUNT_MAX
from gz.core.interrupts import TimerState
from gz.core.vcpu import Power
from gz.metal import inline, load_acquire, mmio

if TYPE_CHECKING:
    from gz.core.cpu import Cpu
    from gz.core.interrupts import Vgic
    from gz.core.vcpu import Vcpu

NEVER = 0xFFFF_FFFF_FFFF_FFFF

_VIRTUAL = 1 << TimerInterrupt.EL1_VIRTUAL
_PHYSICAL = 1 << TimerInterrupt.EL1_PHYSICAL
#: The core's own private interrupts; the host clears what it doesn't know when it starts a CPU.
_OURS = _VIRTUAL | 1 << TimerInterrupt.EL2_PHYSICAL | 1 << MAINTENANCE_INTERRUPT

_GUEST_ACCESS = CNTHCTL_EL2(EL1PCTEN=1, EL1PCEN=0)
_HOST_ACCESS = CNTHCTL_EL2(EL1PCTEN=1, EL1PCEN=1)


#: The host's virtual timer while a guest runs, by CPU.
HOST = storage(TimerState, CPU_COUNT_MAX)


@inline
def _wanted(control: u64) -> bool:
    return control & CNT_CTL(ENABLE=1, IMASK=1) == CNT_CTL(ENABLE=1)


@inline
def _fires(control: u64) -> bool:
    """Of a control register that was read from the CPU."""
    return control & CNT_CTL(ENABLE=1, IMASK=1, ISTATUS=1) == CNT_CTL(ENABLE=1, ISTATUS=1)


@inline
def redistributor(cpu: Cpu) -> GicrSgi:
    return mmio(GicrSgi, cpu.redistributor + FRAME_SIZE)


@inline
def offset(vcpu: Vcpu) -> u64:
    """What the guest's virtual counter lags behind the counter that the host reads, in ticks."""
    return vcpu.vm.counter_offset


def reset(vcpu: Vcpu) -> None:
    """As after power-on; the vCPU doesn't run.  The VM's virtual time starts with its first vCPU."""
    if vcpu.vm.vcpu_count == 0:
        vcpu.vm.counter_offset = sysreg.CNTPCT_EL0
    timer = vcpu.timer
    timer.virtual.control = 0
    timer.virtual.deadline = 0
    timer.physical.control = 0
    timer.physical.deadline = 0
    timer.held = 0


# World switch.  The order: timer.load, list_registers.load; list_registers.save, timer.save.


def load(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """The guest's timers take the place of the host's."""
    cpu = vcpu.context.cpu
    timer = vcpu.timer
    host = HOST[cpu.index]
    host.control = sysreg.CNTV_CTL_EL0
    host.deadline = sysreg.CNTV_CVAL_EL0
    sysreg.CNTV_CTL_EL0 = 0
    sysreg.CNTVOFF_EL2 = vcpu.vm.counter_offset
    sysreg.CNTV_CVAL_EL0 = timer.virtual.deadline
    sysreg.CNTV_CTL_EL0 = timer.virtual.control
    sysreg.CNTHCTL_EL2 = _GUEST_ACCESS
    isb()
    refresh(vcpu, locked)
    frame = redistributor(cpu)
    frame.ISENABLER0 = _OURS
    if timer.held != 0:
        frame.ISACTIVER0 = _VIRTUAL
    _arm(vcpu)


def save(vcpu: Vcpu) -> None:
    """The host's timers are back; its PPI 27 is not held up by what the guest left active."""
    cpu = vcpu.context.cpu
    timer = vcpu.timer
    host = HOST[cpu.index]
    timer.virtual.control = sysreg.CNTV_CTL_EL0
    timer.virtual.deadline = sysreg.CNTV_CVAL_EL0
    sysreg.CNTV_CTL_EL0 = 0
    sysreg.CNTHP_CTL_EL2 = 0
    if timer.held != 0:
        redistributor(cpu).ICACTIVER0 = _VIRTUAL
    sysreg.CNTVOFF_EL2 = 0
    sysreg.CNTV_CVAL_EL0 = host.deadline
    sysreg.CNTV_CTL_EL0 = host.control
    sysreg.CNTHCTL_EL2 = _HOST_ACCESS


# Interrupts.


def interrupt(vcpu: Vcpu) -> bool:
    """PPI 27 is pending on this CPU while the guest runs.  False: it is not the guest's timer."""
    if not _fires(sysreg.CNTV_CTL_EL0):
        return False
    redistributor(vcpu.context.cpu).ISACTIVER0 = _VIRTUAL
    dsb("sy")
    locked = vgic.acquire(vcpu)
    list_registers.reclaim(vcpu, locked)  # the last one, if the guest has ended it
    private = vcpu.gic.private
    private.line |= _VIRTUAL
    vcpu.timer.held = 1
    vcpu.gic.dirty = 1
    if private.listed & _VIRTUAL != 0:
        vcpu.gic.stale = 1  # the guest made it active or pending itself; now the hardware has to go along
    vgic.release(locked)
    return True


def hypervisor_interrupt(vcpu: Vcpu) -> bool:
    """CNTHP's PPI is pending while the guest runs.  False: it is not for the guest's physical timer alone."""
    cpu = vcpu.context.cpu
    host = HOST[cpu.index]
    now = sysreg.CNTPCT_EL0
    if (cpu.slice_end != 0 and cpu.slice_end <= now) or (_wanted(host.control) and host.deadline <= now):
        return False
    if not _fires(physical_control(vcpu)):
        return False
    locked = vgic.acquire(vcpu)
    _physical_line(vcpu, locked)
    vgic.release(locked)
    _arm(vcpu)
    return True


@inline
def ended(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """The guest ended PPI 27: the hardware's is inactive too and fires again if it has to."""
    if vcpu.timer.held != 0:
        vcpu.timer.held = 0
        vcpu.gic.private.line &= ~_VIRTUAL


def release(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """PPI 27 is not the guest's any more although it did not end it by itself."""
    if vcpu.timer.held != 0:
        if vcpu.gic.loaded != 0:
            redistributor(vcpu.context.cpu).ICACTIVER0 = _VIRTUAL
            dsb("sy")
        ended(vcpu, locked)


def deactivated(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """The guest wrote GICR_ICACTIVER0."""
    if vcpu.gic.private.active & _VIRTUAL == 0:
        release(vcpu, locked)


def refresh(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """Both lines as they are now, before the guest goes or waits; the vCPU's timers are in the CPU."""
    resample(vcpu, locked)
    private = vcpu.gic.private
    if _fires(sysreg.CNTV_CTL_EL0) and vcpu.timer.held == 0 and private.listed & _VIRTUAL == 0:
        private.line |= _VIRTUAL
        vcpu.timer.held = 1
        vcpu.gic.dirty = 1
        redistributor(vcpu.context.cpu).ISACTIVER0 = _VIRTUAL
        dsb("sy")
    _physical_line(vcpu, locked)


@inline
def resample(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """A line that went low again before the guest took the interrupt takes it back."""
    private = vcpu.gic.private
    if vcpu.timer.held != 0 and (private.listed | private.active) & _VIRTUAL == 0:
        if not _fires(sysreg.CNTV_CTL_EL0):
            release(vcpu, locked)
    if private.line & _PHYSICAL != 0:
        _physical_line(vcpu, locked)


# The physical timer of a guest: EL1PCEN = 0, every access traps (core/sysregs.py).


def _physical_line(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    private = vcpu.gic.private
    if _fires(physical_control(vcpu)):
        if private.line & _PHYSICAL == 0:
            private.line |= _PHYSICAL
            vcpu.gic.dirty = 1
            if private.listed & _PHYSICAL != 0:
                vcpu.gic.stale = 1  # active, and the list register knows nothing of the level
    else:
        private.line &= ~_PHYSICAL


@inline
def physical_control(vcpu: Vcpu) -> u64:
    """CNTP_CTL_EL0: ISTATUS is RES0 while the timer is off."""
    state = vcpu.timer.physical
    control = CNT_CTL(state.control)
    if control.ENABLE != 0 and state.deadline <= sysreg.CNTPCT_EL0:
        return control.replace(ISTATUS=1)
    return control


@inline
def physical_value(vcpu: Vcpu) -> u64:
    """CNTP_TVAL_EL0: signed 32-bit distance, as the register reads."""
    return u64(u32(vcpu.timer.physical.deadline - sysreg.CNTPCT_EL0))


def set_physical(vcpu: Vcpu, control: u64, value: u64) -> None:
    state = vcpu.timer.physical
    state.control = control & CNT_CTL(ENABLE=1, IMASK=1)
    state.deadline = value
    locked = vgic.acquire(vcpu)
    _physical_line(vcpu, locked)
    vgic.release(locked)
    _arm(vcpu)


# Deadlines.


def _arm(vcpu: Vcpu) -> None:
    """CNTHP at the earlier of the host's deadline and the guest's physical timer, if that is still to fire."""
    cpu = vcpu.context.cpu
    host = HOST[cpu.index]
    guest = vcpu.timer.physical
    soonest: u64 = NEVER
    if _wanted(host.control):
        soonest = host.deadline
    if _wanted(guest.control) and vcpu.gic.private.line & _PHYSICAL == 0:
        soonest = min(soonest, guest.deadline)
    if cpu.slice_end != 0:
        soonest = min(soonest, cpu.slice_end)
    sysreg.CNTHP_CVAL_EL2 = soonest
    if soonest != NEVER:
        sysreg.CNTHP_CTL_EL2 = CNT_CTL(ENABLE=1)
    else:
        sysreg.CNTHP_CTL_EL2 = 0


def deadline(vcpu: Vcpu) -> u64:
    """Counter ticks until a timer wakes the vCPU, which doesn't run; 0: now, NEVER: none will, or it is off."""
    if load_acquire(vcpu.power) != Power.ON:
        return NEVER
    timer = vcpu.timer
    now = sysreg.CNTPCT_EL0
    virtual = _remaining(vcpu, timer.virtual, _VIRTUAL, now - vcpu.vm.counter_offset)
    return min(virtual, _remaining(vcpu, timer.physical, _PHYSICAL, now))


def _remaining(vcpu: Vcpu, state: TimerState, bit: u32, now: u64) -> u64:
    private = vcpu.gic.private
    if not _wanted(state.control) or private.enabled & ~private.active & bit == 0:
        return NEVER
    if state.deadline <= now:
        return 0
    return state.deadline - now
