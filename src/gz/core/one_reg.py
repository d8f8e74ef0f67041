# SPDX-License-Identifier: Apache-2.0
"""SET_ONE_REG and GET_ONE_REG (gzvm ABI 4.5): the core registers of a vCPU that does not run."""

from __future__ import annotations

import gz.core.lifecycle as lifecycle
from gz.abi.errors import Error
from gz.abi.registers import ARCHITECTURE, BOOT_PSTATE, CLASS_CORE, CoreFrame, RegisterId
from gz.arm64.registers import SPSR, Mode
from gz.arm64.sysreg import SysRegs
from gz.bits import i64, u32, u64
from gz.core.context import EL1_REGISTERS
from gz.core.vcpu import Vcpu
from gz.metal import compare_exchange, store_release, unroll

_X = CoreFrame.offset("x") // 4
_SP = CoreFrame.offset("sp") // 4
_PC = CoreFrame.offset("pc") // 4
_PSTATE = CoreFrame.offset("pstate") // 4
_SP_EL1 = CoreFrame.offset("sp_el1") // 4
_ELR_EL1 = CoreFrame.offset("elr_el1") // 4
_SPSR_EL1 = CoreFrame.offset("spsr") // 4
_FPSR = CoreFrame.offset("fpsr") // 4
_FPCR = CoreFrame.offset("fpcr") // 4
_SIZE_32 = 2  # RegisterId.SIZE is log2 of bytes
_SIZE_64 = 3

_EL1_OF = tuple(
    (index, EL1_REGISTERS.index(register))
    for index, register in (
        (_SP, SysRegs.SP_EL0),
        (_SP_EL1, SysRegs.SP_EL1),
        (_ELR_EL1, SysRegs.ELR_EL1),
        (_SPSR_EL1, SysRegs.SPSR_EL1),
    )
)

_SETTABLE = SPSR(M=0xF, F=1, I=1, A=1, D=1, N=1, Z=1, C=1, V=1)


def permitted(pstate: u64) -> bool:
    """AArch64 EL0 or EL1, no reserved bit, no single step, no illegal execution state: CVE-2018-18021's lesson."""
    mode = SPSR(pstate).M
    if mode != Mode.EL0T and mode != Mode.EL1T and mode != Mode.EL1H:
        return False
    return pstate & ~u64(_SETTABLE) == 0


def write(vcpu: Vcpu, number: u64, value: u64) -> i64:
    if compare_exchange(vcpu.running, 0, ~u32(0)) != 0:
        return Error.BUSY
    result = _write(vcpu, number, value)
    store_release(vcpu.running, 0)
    return result


def read(vcpu: Vcpu, number: u64) -> tuple[i64, u64]:
    if compare_exchange(vcpu.running, 0, ~u32(0)) != 0:
        return Error.BUSY, 0
    result, value = _read(vcpu, number)
    store_release(vcpu.running, 0)
    return result, value


def _offered(vcpu: Vcpu, number: u64) -> bool:
    """Of a protected VM that has not run, the start of its boot vCPU; nothing else is the host's business, nor is
    where firmware starts.
    """
    if vcpu.vm.protected == 0:
        return True
    if vcpu.vm.started != 0 or vcpu.index != 0:
        return False
    index = RegisterId(number).INDEX
    if index == _PC:
        return vcpu.vm.firmware_size == 0
    return index == _PSTATE or index < _X + 2 * lifecycle.BOOT_ARGUMENTS


def _shape(number: u64) -> i64:
    """Core registers of 32 or 64 bits are ours; anything else is known but not offered."""
    register = RegisterId(number)
    if register.ARCH != ARCHITECTURE or register.CLASS != CLASS_CORE:
        return Error.NOT_SUPPORTED
    if register != RegisterId(ARCH=ARCHITECTURE, SIZE=register.SIZE, CLASS=CLASS_CORE, INDEX=register.INDEX):
        return Error.INVALID_ARGS
    index = register.INDEX
    wide = index != _FPSR and index != _FPCR
    if register.SIZE != (_SIZE_64 if wide else _SIZE_32) or (wide and index % 2 != 0):
        return Error.INVALID_ARGS
    return Error.NO_ERROR


def _write(vcpu: Vcpu, number: u64, value: u64) -> i64:
    shape = _shape(number)
    if shape != Error.NO_ERROR:
        return shape
    index = RegisterId(number).INDEX
    if index == _PSTATE and vcpu.vm.protected != 0 and vcpu.started == 0:  # clients set all vCPUs' to what it is
        return Error.NO_ERROR if value == BOOT_PSTATE else i64(Error.INVALID_ARGS)
    if not _offered(vcpu, number):
        return Error.NOT_SUPPORTED
    context = vcpu.context
    if index == _PC:
        if vcpu.index == 0 and vcpu.vm.reset_pending != 0:
            # The driver has no call for a reset: its first register write after the event is one (gzvm ABI 4.3).
            lifecycle.reset_all(vcpu.vm)
            vcpu.vm.reset_pending = 0
        context.elr = value
        return Error.NO_ERROR
    if index == _PSTATE:
        if not permitted(value):
            return Error.INVALID_ARGS
        context.spsr = value
        return Error.NO_ERROR
    if index < _X + 62:
        context.x[index // 2] = value
        return Error.NO_ERROR
    for candidate, slot in unroll(_EL1_OF):
        if index == candidate:
            context.el1[slot] = value
            return Error.NO_ERROR
    if index == _FPSR:
        context.fp.fpsr = value
        context.fp_used = 1
        return Error.NO_ERROR
    if index == _FPCR:
        context.fp.fpcr = value
        context.fp_used = 1
        return Error.NO_ERROR
    return Error.NOT_SUPPORTED


def _read(vcpu: Vcpu, number: u64) -> tuple[i64, u64]:
    shape = _shape(number)
    if shape != Error.NO_ERROR:
        return shape, 0
    if not _offered(vcpu, number):
        return Error.NOT_SUPPORTED, 0
    index = RegisterId(number).INDEX
    context = vcpu.context
    if index == _PC:
        return Error.NO_ERROR, context.elr
    if index == _PSTATE:
        return Error.NO_ERROR, context.spsr
    if index < _X + 62:
        return Error.NO_ERROR, context.x[index // 2]
    for candidate, slot in unroll(_EL1_OF):
        if index == candidate:
            return Error.NO_ERROR, context.el1[slot]
    if index == _FPSR:
        return Error.NO_ERROR, context.fp.fpsr
    if index == _FPCR:
        return Error.NO_ERROR, context.fp.fpcr
    return Error.NOT_SUPPORTED, 0
