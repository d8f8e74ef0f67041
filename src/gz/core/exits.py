# SPDX-License-Identifier: Apache-2.0
"""Exits to the VMM: the run page and the hardware state behind it (gzvm ABI 1.5, 2.4 to 2.7).

Both pages are the host's: they are written field by field and never trusted. Read are the data of an emulated
load and the results of a call that the guest waits for, once each, and `immediate_exit` for callers without a
driver.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.advance as advance
import gz.core.faults as faults
import gz.core.memory as memory
import gz.core.timer as timer
import gz.core.vm as vms
from gz.abi.exits import ExceptionCode, ExitReason, SystemEvent
from gz.abi.run import CRASH_DATA, HWSTATE_OFFSET, HwState, RunPage
from gz.arm64.sysreg import sysreg
from gz.bits import Ipa, u8, u32, u64
from gz.core.outcome import Outcome
from gz.metal import cold, compare_exchange, inline, read_once, store_release, view, write_once

if TYPE_CHECKING:
    from gz.core.vcpu import Vcpu

#: `PendingAccess.active`: what the guest waits for.
ACCESS = 1  # an emulated load or store
CALL = 2  # the results of a hypercall in x0 to x3
EVENT = 3  # nothing, but the VMM has to hear of the system event in `register`

#: FAIL_ENTRY's reason: the vCPU runs elsewhere, or it does not exist (then there is no run page to say so).
ENTRY_BUSY = 1

_ZERO_REGISTER = 31
_RESULTS = 4
_ARGUMENTS = 8
_ARGUMENTS_USED = 2  # x0 and x1: PTP, MEM_RELINQUISH
_RESERVED = 30
_SLEEP_MAX_SECONDS = 20  # the driver converts 30 s at most (gzvm ABI 2.7)


@inline
def _page(vcpu: Vcpu) -> RunPage:
    return view(RunPage, memory.va(vcpu.run_page))


@inline
def _hwstate(vcpu: Vcpu) -> HwState:
    return view(HwState, memory.va(vcpu.run_page + HWSTATE_OFFSET))


@inline
def _leave(vcpu: Vcpu, reason: u64) -> Outcome:
    vcpu.exit = reason
    return Outcome.LEAVE


@inline
def publish(vcpu: Vcpu) -> None:
    """On the way to the host: `vcpu.exit` is the reason; the handlers have written what belongs to it."""
    write_once(_page(vcpu).exit_reason, u32(vcpu.exit))
    if vcpu.exit == ExitReason.IDLE:
        write_hwstate(vcpu)


@inline
def mmio(vcpu: Vcpu) -> Outcome:
    """`vcpu.access` is for the VMM; a store counts as done from here on, a load at the next RUN."""
    access = vcpu.access
    record = _page(vcpu).mmio
    write_once(record.phys_addr, u64(access.address))
    if access.is_write != 0:
        value: u64 = 0
        if access.register != _ZERO_REGISTER:
            value = vcpu.context.x[access.register]
        unused = 64 - 8 * u64(access.size)
        write_once(record.data, (value << unused) >> unused)
    else:
        write_once(record.data, 0)
    write_once(record.length, u64(access.size))
    write_once(record.reg_nr, access.register)
    write_once(record.is_write, u8(access.is_write))
    access.active = ACCESS
    access.repeat = 0
    return _leave(vcpu, ExitReason.MMIO)


@cold
def page_fault(vcpu: Vcpu, ipa: Ipa) -> Outcome:
    """Memory that the host has to supply; the instruction is run again."""
    return exception(vcpu, ExceptionCode.PAGE_FAULT, 0, u64(ipa))


@cold
def exception(vcpu: Vcpu, code: ExceptionCode, syndrome: u64, at: u64) -> Outcome:
    record = _page(vcpu).exception
    write_once(record.exception, u32(code))
    write_once(record.error_code, u32(syndrome))
    write_once(record.fault_gpa, at)
    for i in range(_RESERVED):
        write_once(record.reserved[i], 0)
    return _leave(vcpu, ExitReason.EXCEPTION)


@cold
def debug(vcpu: Vcpu, syndrome: u64, at: u64) -> Outcome:
    record = _page(vcpu).debug
    write_once(record.syndrome, syndrome)
    write_once(record.pc, at)
    return _leave(vcpu, ExitReason.DEBUG)


@cold
def crash(vcpu: Vcpu, syndrome: u64, far: u64, ipa: Ipa) -> Outcome:
    """The guest can't take exceptions any more.  Data: ESR_EL2, FAR_EL2, the guest-physical address, the PC."""
    record = _page(vcpu).system_event
    if vcpu.vm.protected == 0:
        write_once(record.data[0], syndrome)
        write_once(record.data[1], far)
        write_once(record.data[2], u64(ipa))
        write_once(record.data[3], sysreg.ELR_EL2)
    write_once(record.type, u32(SystemEvent.CRASH))
    write_once(record.ndata, CRASH_DATA if vcpu.vm.protected == 0 else 0)
    return _leave(vcpu, ExitReason.SYSTEM_EVENT)


@cold
def system_event(vcpu: Vcpu, type: SystemEvent) -> Outcome:
    record = _page(vcpu).system_event
    write_once(record.type, u32(type))
    write_once(record.ndata, 0)
    access = vcpu.access
    access.active = EVENT
    access.register = u32(type)
    access.repeat = 0
    return _leave(vcpu, ExitReason.SYSTEM_EVENT)


@cold
def hypercall(vcpu: Vcpu, results: bool) -> Outcome:
    """The guest's x0 to x7 for the host; of a protected one, only what the calls use.

    `results`: it waits for x0 to x3; else its registers are as they should be.
    """
    record = _page(vcpu).hypercall
    shown = _ARGUMENTS if vcpu.vm.protected == 0 else _ARGUMENTS_USED
    for i in range(_ARGUMENTS):
        write_once(record.args[i], vcpu.context.x[i] if i < shown else 0)
    vcpu.access.active = CALL if results else 0
    vcpu.access.repeat = 0
    if results and vcpu.vm.smc64 != 0:
        write_once(_hwstate(vcpu).vtimer_offset, timer.offset(vcpu))  # the driver's answer to PTP takes it from there
    return _leave(vcpu, ExitReason.HYPERCALL)


def finish(vcpu: Vcpu) -> bool:
    """At RUN: what the VMM left in the page for the pending access.

    False: the exit was not delivered and goes again.
    """
    access = vcpu.access
    if access.repeat != 0:
        access.repeat = 0
        _repeat(vcpu)
        return False
    context = vcpu.context
    if access.active == ACCESS:
        if access.is_write == 0:
            value = read_once(_page(vcpu).mmio.data)
            faults.load(
                vcpu, access.register, access.size, access.sign_extend != 0, access.is_64bit != 0, value
            )
        advance.skip_saved(context, access.length)
    else:
        for i in range(_RESULTS):
            context.x[i] = read_once(_page(vcpu).hypercall.args[i])
    access.active = 0
    return True


@cold
def _repeat(vcpu: Vcpu) -> None:
    access = vcpu.access
    if access.active == ACCESS:
        mmio(vcpu)
    elif access.active == EVENT:
        system_event(vcpu, SystemEvent(access.register))
    else:
        hypercall(vcpu, True)
    publish(vcpu)


@cold
def undelivered(vcpu: Vcpu) -> None:
    """INFORM_EXIT: a signal came between the exit and the VMM, which did not look at it (gzvm ABI 2.5)."""
    if compare_exchange(vcpu.running, 0, ~u32(0)) == 0:
        if vcpu.access.active != 0:
            vcpu.access.repeat = 1
        store_release(vcpu.running, 0)


@inline
def immediate(vcpu: Vcpu) -> bool:
    """Callers without a driver: the VMM wants the vCPU back (the driver looks at this by itself)."""
    return read_once(_page(vcpu).immediate_exit) == 1


@cold
def nothing(vcpu: Vcpu) -> u64:
    """An exit that means nothing."""
    return _report(vcpu, ExitReason.GZ)


@cold
def parked(vcpu: Vcpu) -> u64:
    """RUN of a vCPU that is powered off: it sleeps until somebody turns it on, unless it was the one that ended the
    VM and the VMM has not heard.
    """
    if vcpu.access.repeat != 0:
        _repeat(vcpu)
        return vcpu.exit
    return _report(vcpu, ExitReason.IDLE if vcpu.vm.capabilities & vms.IDLE != 0 else ExitReason.GZ)


@cold
def fail_entry(vcpu: Vcpu, cpu: u32) -> u64:
    """RUN of a vCPU that runs already. The page is that other RUN's, whose exit writes over this."""
    record = _page(vcpu).fail_entry
    write_once(record.reason, ENTRY_BUSY)
    write_once(record.cpu, cpu)
    write_once(_page(vcpu).exit_reason, u32(ExitReason.FAIL_ENTRY))
    return ExitReason.FAIL_ENTRY


@inline
def _report(vcpu: Vcpu, reason: u64) -> u64:
    vcpu.exit = reason
    publish(vcpu)
    return reason


@cold
def write_hwstate(vcpu: Vcpu) -> None:
    """When the driver has to wake an idle vCPU for its timer. No list registers: drivers since version 6 read
    none.

    Drivers that call by SMC32 ids have other fields there or none, so theirs stay as they are.
    """
    if vcpu.vm.smc64 == 0:
        return
    state = _hwstate(vcpu)
    longest = u64(sysreg.CNTFRQ_EL0) * _SLEEP_MAX_SECONDS
    write_once(state.vtimer_offset, timer.offset(vcpu))
    write_once(state.vtimer_delay, min(timer.deadline(vcpu), longest))
    write_once(state.vtimer_migrate, 1)
