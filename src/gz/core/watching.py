# SPDX-License-Identifier: Apache-2.0
"""Exceptions of a guest that its VMM asked to hear of (Capability.WATCH_EXCEPTIONS): each is what it would be without,
then the vCPU leaves with exit EXCEPTION or DEBUG and goes on with the next RUN.

EL2 hears of what it carries out or injects itself, and of BRK by MDCR_EL2.TDE.  That would also bring the debug
exceptions that the guest enabled for itself, without the conditions of EL1, so it is off as long as there are any.
"""

from __future__ import annotations

import gz.core.advance as advance
import gz.core.exits as exits
import gz.core.inject as inject
from gz.abi.errors import Error
from gz.abi.exits import ExceptionCode, Watch
from gz.arm64.registers import MDCR_EL2
from gz.arm64.syndrome import ESR_EL2, ExceptionClass
from gz.arm64.sysreg import sysreg
from gz.bits import Ipa, i64, u32, u64
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu
from gz.core.vm import Vm
from gz.metal import cold, inline

_ALL = Watch.UNDEFINED | Watch.ABORT | Watch.BREAKPOINT | Watch.HVC | Watch.SMC | Watch.SERROR
_CALL_SIZE = 4  # bytes of an HVC, which ELR_EL2 is behind


def enable(vm: Vm, kinds: u64) -> i64:
    """From the next exception on, of BRK from the next RUN on.  What a protected VM does is not the host's business."""
    if vm.protected != 0:
        return Error.NOT_SUPPORTED
    if kinds & ~u64(_ALL) != 0:
        return Error.INVALID_ARGS
    vm.watched = u32(kinds)
    return Error.NO_ERROR


@inline
def _watched(vcpu: Vcpu, kind: u32) -> bool:
    return vcpu.vm.watched & kind != 0


@cold
def route(vcpu: Vcpu) -> None:
    """Debug exceptions to EL2 or to EL1, in `context.mdcr`."""
    mdcr = MDCR_EL2(vcpu.context.mdcr)
    hears = _watched(vcpu, Watch.BREAKPOINT) and vcpu.debug.armed == 0
    vcpu.context.mdcr = mdcr.replace(TDE=u64(hears))


@cold
def undefined(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    """An instruction that trapped; those that the CPU itself doesn't know go to EL1 without EL2."""
    at = sysreg.ELR_EL2
    inject.undefined()
    if not _watched(vcpu, Watch.UNDEFINED):
        return Outcome.RESUME
    return exits.exception(vcpu, ExceptionCode.UNDEFINED, esr, at)


@cold
def abort(vcpu: Vcpu, esr: ESR_EL2, far: u64, ipa: Ipa) -> Outcome:
    """A synchronous external abort; where its vector cannot be fetched either, the guest has come to its end."""
    if esr.EC == ExceptionClass.INSTRUCTION_ABORT_LOWER and inject.endless():
        return exits.crash(vcpu, esr, far, ipa)
    inject.abort(esr, far)
    if not _watched(vcpu, Watch.ABORT):
        return Outcome.RESUME
    return exits.exception(vcpu, ExceptionCode.ABORT, esr, u64(ipa))


@cold
def breakpoint(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    """BRK, and BKPT of AArch32."""
    at = sysreg.ELR_EL2
    inject.exception(esr, sysreg.FAR_EL1)
    if not _watched(vcpu, Watch.BREAKPOINT):
        return Outcome.RESUME
    return exits.debug(vcpu, esr, at)


@cold
def hypercall(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    """One that was answered; one that ends in an exit of its own shows itself."""
    if not _watched(vcpu, Watch.HVC):
        return Outcome.RESUME
    return exits.exception(vcpu, ExceptionCode.HVC, esr, sysreg.ELR_EL2 - _CALL_SIZE)


@cold
def secure_call(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    at = sysreg.ELR_EL2
    advance.skip()
    if not _watched(vcpu, Watch.SMC):
        return Outcome.RESUME
    return exits.exception(vcpu, ExceptionCode.SMC, esr, at)


@cold
def serror(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    if not _watched(vcpu, Watch.SERROR):
        return Outcome.RESUME
    return exits.exception(vcpu, ExceptionCode.SERROR, esr, sysreg.ELR_EL2)
