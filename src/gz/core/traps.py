# SPDX-License-Identifier: Apache-2.0
"""A guest's synchronous exceptions by class (DDI 0487, ESR_EL2.EC); what is not listed is an undefined instruction."""

from __future__ import annotations

from collections.abc import Callable

import gz.core.advance as advance
import gz.core.faults as faults
import gz.core.guest_calls as guest_calls
import gz.core.simd as simd
import gz.core.spinning as spinning
import gz.core.sysregs as sysregs
import gz.core.vgic as vgic
import gz.core.watching as watching
import gz.core.world as world
from gz.arm64.syndrome import ESR_EL2, EXCEPTION_CLASSES, ExceptionClass
from gz.bits import function_table
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu

Handler = Callable[[Vcpu, ESR_EL2], Outcome]

_WFE = 1  # ISS.TI


def undefined(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    return Outcome.UNDEFINED


def wait(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    """WFI: the host schedules something else unless an interrupt can be taken now."""
    if esr.ISS & _WFE != 0:
        return spinning.give_way(vcpu)
    if vgic.deliverable(vcpu):
        return Outcome.SKIP
    vcpu.idle = 1
    advance.skip()
    return vgic.leave_idle(vcpu)


def hypercall(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    outcome = guest_calls.call(vcpu)
    if outcome == Outcome.RESUME and vcpu.vm.watched != 0:
        return watching.hypercall(vcpu, esr)
    if outcome == Outcome.REPEAT:
        advance.repeat()
        return Outcome.LEAVE
    return outcome


def secure_call(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    """A trapped SMC: the same services as HVC, nothing reaches EL3; ELR_EL2 is still at it."""
    outcome = guest_calls.call(vcpu)
    if outcome == Outcome.RESUME and vcpu.vm.watched != 0:
        return watching.secure_call(vcpu, esr)
    if outcome == Outcome.RESUME:
        return Outcome.SKIP
    if outcome == Outcome.REPEAT:
        return Outcome.LEAVE
    if outcome == Outcome.LEAVE:
        advance.skip()
    return outcome


def system_register(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    return sysregs.access(vcpu, esr.ISS)


def floating_point(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    simd.load(vcpu)
    return Outcome.RESUME


def vectors(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    """SVE: a trap with the guest's registers in the CPU is not one of the core's making."""
    if vcpu.context.sve == 0 or vcpu.context.fp_live != 0:
        return Outcome.UNDEFINED
    simd.load(vcpu)
    return Outcome.RESUME


def pointer_authentication(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    return world.load_keys(vcpu)


_ROWS: dict[int, Handler] = {
    ExceptionClass.WFX: wait,
    ExceptionClass.FP: floating_point,
    ExceptionClass.PAC: pointer_authentication,
    ExceptionClass.SVE: vectors,
    ExceptionClass.HVC64: hypercall,
    ExceptionClass.SMC64: secure_call,
    ExceptionClass.SYSREG: system_register,
    ExceptionClass.BRK64: watching.breakpoint,
    ExceptionClass.BKPT32: watching.breakpoint,
    ExceptionClass.INSTRUCTION_ABORT_LOWER: faults.instruction,
    ExceptionClass.DATA_ABORT_LOWER: faults.data,
}

TRAPS = function_table(Handler, [_ROWS.get(ec, undefined) for ec in range(EXCEPTION_CLASSES)])
