# SPDX-License-Identifier: Apache-2.0
"""Stage-2 faults of a guest: memory to be supplied, our own devices, the VMM's devices, or nothing at all."""

from __future__ import annotations

import gz.core.advance as advance
import gz.core.exits as exits
import gz.core.guard as guard
import gz.core.slots as slots
import gz.core.vgic as vgic
import gz.core.watching as watching
from gz.arm64.insn import at, isb
from gz.arm64.registers import HPFAR_EL2, PAR_EL1
from gz.arm64.syndrome import ESR_EL2, FAULT_TYPE_MASK, DataAbort, FaultStatus
from gz.arm64.sysreg import sysreg
from gz.bits import Ipa, Va, u32, u64
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu
from gz.metal import cold, inline

_PAGE_OFFSET = 0xFFF
_ZERO_REGISTER = 31


def data(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    abort = DataAbort(esr.ISS)
    far = sysreg.FAR_EL2
    if abort.DFSC & FAULT_TYPE_MASK != FaultStatus.TRANSLATION:
        return _refused(vcpu, esr, far)
    page = HPFAR_EL2(sysreg.HPFAR_EL2).FIPA << 12
    ipa = Ipa(page | far & _PAGE_OFFSET)
    if abort.S1PTW != 0:
        return _memory(vcpu, esr, Ipa(page), far)
    if abort.ISV == 0:
        return _without_syndrome(vcpu, esr, ipa, far)
    if vgic.contains(vcpu.vm, ipa):
        register = abort.SRT
        size: u32 = u32(1) << u32(abort.SAS)
        value: u64 = 0
        if register != _ZERO_REGISTER:
            value = vcpu.context.x[register]
        result = vgic.access(vcpu, ipa, size, abort.WnR != 0, value)
        if abort.WnR == 0:
            load(vcpu, u32(register), size, abort.SSE != 0, abort.SF != 0, result)
        return Outcome.SKIP
    if slots.backs(vcpu.vm, ipa):
        return exits.page_fault(vcpu, ipa)
    if vcpu.vm.protected != 0 and not guard.permits(vcpu.vm, ipa):
        return watching.abort(vcpu, esr, far, ipa)
    return _device(vcpu, esr, ipa)


@inline
def _device(vcpu: Vcpu, esr: ESR_EL2, ipa: Ipa) -> Outcome:
    abort = DataAbort(esr.ISS)
    access = vcpu.access
    access.is_write = u32(abort.WnR)
    access.size = u32(1) << u32(abort.SAS)
    access.length = advance.length(esr)
    access.register = u32(abort.SRT)
    access.sign_extend = u32(abort.SSE)
    access.is_64bit = u32(abort.SF)
    access.address = ipa
    access.active = 1
    return exits.mmio(vcpu)


def instruction(vcpu: Vcpu, esr: ESR_EL2) -> Outcome:
    far = sysreg.FAR_EL2
    status = DataAbort(esr.ISS).DFSC
    if status & FAULT_TYPE_MASK != FaultStatus.TRANSLATION:
        return watching.abort(vcpu, esr, far, Ipa(0))  # a permission fault or an external abort, its address unknown
    page = HPFAR_EL2(sysreg.HPFAR_EL2).FIPA << 12
    return _memory(vcpu, esr, Ipa(page | far & _PAGE_OFFSET), far)


@inline
def load(vcpu: Vcpu, register: u32, size: u32, sign_extend: bool, is_64bit: bool, value: u64) -> None:
    """`value` as a load of `size` bytes leaves it in the register (DDI 0487, LDR*, LDRS*)."""
    if register == _ZERO_REGISTER:
        return
    unused = 64 - 8 * u64(size)
    result = (value << unused) >> unused
    if sign_extend:
        sign = u64(1) << (8 * u64(size) - 1)
        result = (result ^ sign) - sign
    if not is_64bit:
        result &= 0xFFFF_FFFF
    vcpu.context.x[register] = result


@inline
def _memory(vcpu: Vcpu, esr: ESR_EL2, ipa: Ipa, far: u64) -> Outcome:
    """Only memory will do here: a fetch or a translation table walk."""
    if slots.backs(vcpu.vm, ipa):
        return exits.page_fault(vcpu, ipa)
    return watching.abort(vcpu, esr, far, ipa)


@cold
def _refused(vcpu: Vcpu, esr: ESR_EL2, far: u64) -> Outcome:
    """A permission fault: perhaps a store to a slot that is read-only, which is the VMM's; or an external abort."""
    abort = DataAbort(esr.ISS)
    if abort.DFSC & FAULT_TYPE_MASK == FaultStatus.PERMISSION and abort.S1PTW == 0:
        if abort.CM != 0:
            return Outcome.SKIP
        found, ipa = _translate(far)
        if not found:
            return Outcome.RESUME  # another vCPU changed its tables meanwhile; the access will tell
        slot = slots.find(vcpu.vm, ipa)
        if slot is not None and slots.is_read_only(slot):
            if abort.ISV != 0 and abort.WnR != 0:
                return _device(vcpu, esr, ipa)
            return watching.abort(vcpu, esr, far, ipa)
    return watching.abort(vcpu, esr, far, Ipa(0))  # its address is unknown


@inline
def _translate(address: u64) -> tuple[bool, Ipa]:
    """Stage 1 of the guest that runs here; HPFAR_EL2 is unknown after a permission fault (DDI 0487, HPFAR_EL2)."""
    previous = sysreg.PAR_EL1
    at("s1e1r", Va(address))
    isb()
    result = PAR_EL1(sysreg.PAR_EL1)
    sysreg.PAR_EL1 = previous
    return result.F == 0, Ipa(result.PA << 12 | address & _PAGE_OFFSET)


@cold
def _without_syndrome(vcpu: Vcpu, esr: ESR_EL2, ipa: Ipa, far: u64) -> Outcome:
    """Pairs, write-back and vector accesses, cache maintenance: fine on memory, refused on devices."""
    if slots.backs(vcpu.vm, ipa):
        return exits.page_fault(vcpu, ipa)
    if DataAbort(esr.ISS).CM != 0:
        return Outcome.SKIP
    return watching.abort(vcpu, esr, far, ipa)
