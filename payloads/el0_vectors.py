# SPDX-License-Identifier: Apache-2.0
"""Checks of exceptions from EL0, each taken to EL1 with syndrome, addresses and state: the ground of kvm-unit-tests'
vectors-user, and what a hypervisor traps too but EL1 has to have first (DDI 0487, D1.3.6)."""

from __future__ import annotations

from gz.arm64.descriptors import GIGABYTE_SHIFT
from gz.arm64.features import ID_AA64DFR0_EL1
from gz.arm64.insn import isb
from gz.arm64.registers import CPACR_EL1, SCTLR_EL1, SPSR
from gz.arm64.syndrome import (
    UNDEFINED,
    DataAbort,
    ExceptionClass,
    FaultStatus,
    FpIss,
    InstructionAbort,
    SysRegTrap,
    register_iss,
    syndrome,
)
from gz.arm64.sysreg import SysReg, SysRegs, sysreg
from gz.bits import u32, u64
from gz.metal import unroll
from payloads.checks import verdict
from payloads.el0 import PROGRAM, at_el0, map_gigabyte
from payloads.slot import put, slot_address

_ALIAS = 256 << GIGABYTE_SHIFT
_HOLE = 255 << GIGABYTE_SHIFT
_STATE = SPSR(D=1, A=1, I=1, F=1, N=1, V=1)
_VALUE = 0xABCD
_SVC_123 = 0xD400_0F61
_BRK_77 = 0xD420_09A0
_MRS_X0 = 0xD520_0000
_UNDEFINED = (
    0x0000_0000,  # UDF
    0xD538_1000,  # MRS X0, SCTLR_EL1
    0xD518_C000,  # MSR VBAR_EL1, X0
    0xD53C_1100,  # MRS X0, HCR_EL2
    0xD538_CC00,  # MRS X0, ICC_IAR1_EL1
    0xD400_0002,  # HVC
    0xD400_0003,  # SMC
    0xD69F_03E0,  # ERET
    0xD508_871F,  # TLBI VMALLE1
)
_LDR = 0xF940_0000  # LDR X0, [X0]
_STR = 0xF900_0000
_BR = 0xD61F_0000
_FMOV = 0x9E67_0000  # FMOV D0, X0
_FP_TRAPPED = syndrome(ExceptionClass.FP, int(FpIss(COND=14, CV=1)))


def _data(status: FaultStatus, write: int) -> int:
    """At level 1."""
    return syndrome(ExceptionClass.DATA_ABORT_LOWER, int(DataAbort(DFSC=status + 1, WnR=write)))


def _fetch(status: FaultStatus) -> int:
    return syndrome(ExceptionClass.INSTRUCTION_ABORT_LOWER, int(InstructionAbort(IFSC=status + 1)))


def _read(register: SysReg) -> tuple[int, int]:
    """MRS X0 and the syndrome of its trap."""
    fields = (register.op1, register.crn, register.crm, register.op2)
    instruction = _MRS_X0 | register.op0 << 19
    for field, low in zip(fields, (16, 12, 8, 5), strict=True):
        instruction |= field << low
    return instruction, syndrome(ExceptionClass.SYSREG, register_iss(register) | int(SysRegTrap(Read=1)))


_CALL = syndrome(ExceptionClass.SVC64, 123)
_BREAKPOINT = syndrome(ExceptionClass.BRK64, 77)
_LOAD_UNMAPPED, _STORE_UNMAPPED = _data(FaultStatus.TRANSLATION, 0), _data(FaultStatus.TRANSLATION, 1)
_LOAD_DENIED, _STORE_DENIED = _data(FaultStatus.PERMISSION, 0), _data(FaultStatus.PERMISSION, 1)
_FETCH_UNMAPPED, _FETCH_DENIED = _fetch(FaultStatus.TRANSLATION), _fetch(FaultStatus.PERMISSION)
_MISALIGNED = syndrome(ExceptionClass.PC_ALIGNMENT)
_TRAPPED = tuple(
    _read(register)
    for register in (
        SysRegs.DAIF,
        SysRegs.CTR_EL0,
        SysRegs.CNTVCT_EL0,
        SysRegs.CNTPCT_EL0,
        SysRegs.CNTP_CTL_EL0,
        SysRegs.CNTV_CVAL_EL0,
    )
)
_COUNTER, _COUNTER_TRAPPED = _read(SysRegs.PMCCNTR_EL0)


def here() -> u64:
    """The instruction's address at EL0."""
    return _ALIAS + u64(slot_address())


def open_alias() -> None:
    """The program for EL0 too, and a gigabyte of nothing; all else is EL1's."""
    own = u64(slot_address())
    map_gigabyte((_ALIAS + own) >> GIGABYTE_SHIFT, PROGRAM, own)
    map_gigabyte(_HOLE >> GIGABYTE_SHIFT, 0, 0)


def ends(instruction: u32, value: u64, esr: u64, elr: u64) -> bool:
    """Is the instruction's end this exception, with x0, flags and masks as before it?"""
    put(slot_address(), instruction)
    after = at_el0(here(), _STATE, value, 0)
    state = SPSR(sysreg.SPSR_EL1).replace(BTYPE=0)
    return after == value and sysreg.ESR_EL1 == esr and sysreg.ELR_EL1 == elr and state == _STATE


def faults(instruction: u32, at: u64, esr: u64) -> bool:
    return ends(instruction, at, esr, here()) and sysreg.FAR_EL1 == at


def jumps(to: u64, esr: u64) -> bool:
    return ends(_BR, to, esr, to) and sysreg.FAR_EL1 == to


def called() -> u32:
    """ELR is behind a supervisor call and at a breakpoint instruction."""
    open_alias()
    holds = ends(_SVC_123, _VALUE, _CALL, here() + 4)
    return verdict(holds and ends(_BRK_77, _VALUE, _BREAKPOINT, here()))


def undefined() -> u32:
    """Whatever is EL1's or EL2's."""
    open_alias()
    holds = True
    for instruction in unroll(_UNDEFINED):
        holds = holds and ends(instruction, _VALUE, UNDEFINED, here())
    return verdict(holds)


def aborts() -> u32:
    open_alias()
    own = u64(slot_address())
    holds = faults(_LDR, _HOLE, _LOAD_UNMAPPED) and faults(_STR, _HOLE, _STORE_UNMAPPED)
    holds = holds and faults(_LDR, own, _LOAD_DENIED) and faults(_STR, own, _STORE_DENIED)
    holds = holds and faults(_STR, here(), _STORE_DENIED)
    holds = holds and jumps(_HOLE, _FETCH_UNMAPPED) and jumps(own, _FETCH_DENIED)
    return verdict(holds and jumps(here() + 2, _MISALIGNED))


def trapped() -> u32:
    """What EL1 keeps from EL0 is EL1's exception, though EL2 may trap the same registers."""
    open_alias()
    sysreg.SCTLR_EL1 = SCTLR_EL1(sysreg.SCTLR_EL1).replace(UMA=0, UCT=0)
    sysreg.CNTKCTL_EL1 = 0
    isb()
    holds = True
    for instruction, esr in unroll(_TRAPPED):
        holds = holds and ends(instruction, _VALUE, esr, here())
    if ID_AA64DFR0_EL1(sysreg.ID_AA64DFR0_EL1).PMUVer != 0:
        sysreg.PMUSERENR_EL0 = 0
        isb()
        holds = holds and ends(_COUNTER, _VALUE, _COUNTER_TRAPPED, here())
    for enabled in unroll((0, 1)):
        sysreg.CPACR_EL1 = CPACR_EL1(FPEN=enabled)
        isb()
        holds = holds and ends(_FMOV, _VALUE, _FP_TRAPPED, here())
    sysreg.CPACR_EL1 = 0
    isb()
    return verdict(holds)


CHECKS = (
    ("calls of EL0", called),
    ("undefined at EL0", undefined),
    ("aborts of EL0", aborts),
    ("traps of EL0", trapped),
)
