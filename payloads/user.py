# SPDX-License-Identifier: Apache-2.0
"""Every encoding of MRS, MSR and SYS executed at EL0, with all that EL1 can allow: a value or an exception (C5).

The program is also mapped 256 GiB higher, for EL0 to execute and read.  Prints like payloads.registers.
"""

from __future__ import annotations

from gz.arm64.descriptors import GIGABYTE_SHIFT
from gz.arm64.features import ID_AA64DFR0_EL1
from gz.arm64.insn import isb
from gz.arm64.registers import CNTKCTL_EL1, CPACR_EL1, SCTLR_EL1, SPSR
from gz.arm64.syndrome import ESR_EL2, UNDEFINED, ExceptionClass
from gz.arm64.sysreg import sysreg
from gz.bits import Struct, Va, storage, u32, u64
from gz.metal import assembly, export, extern, log
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.el0 import PROGRAM, at_el0, map_gigabyte
from payloads.slot import put

_ALIAS = 256 << GIGABYTE_SHIFT
_MASKED = SPSR(D=1, A=1, I=1, F=1)
#: Instructions of the system class with every field zero (DDI 0487, C4.1.93): op0 is bits 20:19.
_MSR = 0xD500_0000
_MRS = 0xD520_0000
_FIELDS = 5
_ENCODINGS = 1 << 14
_PMUSERENR_ALL = 0xF
assembly(
    """
    .section .text.user, "ax"
    .global user_slot
    .type user_slot, %function
user_slot:
    nop
    svc #0

    .global user_slot_address
    .type user_slot_address, %function
user_slot_address:
    adr x0, user_slot
    ret
"""
)


@extern
def user_slot_address() -> Va: ...


class Tally(Struct):
    done: u32
    undefined: u32
    trapped: u32
    other: u32


TALLY = storage(Tally)


def run(instruction: u32, value: u64) -> tuple[u64, u64]:
    """x0 afterwards, and the syndrome of what ended it, 0 if that was the call behind it."""
    at = user_slot_address()
    put(at, instruction)
    result = at_el0(_ALIAS + u64(at), _MASKED, value, 0)
    esr = sysreg.ESR_EL1
    return result, 0 if ESR_EL2(esr).EC == ExceptionClass.SVC64 else esr


def count(esr: u64) -> None:
    if esr == 0:
        TALLY.done += 1
    elif esr == UNDEFINED:
        TALLY.undefined += 1
    elif ESR_EL2(esr).EC == ExceptionClass.SYSREG:
        TALLY.trapped += 1
    else:
        TALLY.other += 1


def report(op0: u32) -> None:
    log(f"op0 {op0}: {TALLY.done} done, {TALLY.undefined} undefined, {TALLY.trapped} trapped, {TALLY.other} other")
    TALLY.done = 0
    TALLY.undefined = 0
    TALLY.trapped = 0
    TALLY.other = 0


@export
def payload(tree: Va) -> None:
    exceptions.expect()
    map_gigabyte((_ALIAS + u64(user_slot_address())) >> GIGABYTE_SHIFT, PROGRAM, u64(user_slot_address()))
    sysreg.CPACR_EL1 = CPACR_EL1(FPEN=3)
    sysreg.CNTKCTL_EL1 = CNTKCTL_EL1(EL0PCTEN=1, EL0VCTEN=1, EL0VTEN=1, EL0PTEN=1)
    sysreg.SCTLR_EL1 = SCTLR_EL1(sysreg.SCTLR_EL1).replace(UMA=1, DZE=1, UCT=1, UCI=1)
    if ID_AA64DFR0_EL1(sysreg.ID_AA64DFR0_EL1).PMUVer != 0:
        sysreg.PMUSERENR_EL0 = _PMUSERENR_ALL
    isb()
    for encoding in range(_ENCODINGS):
        _, esr = run(u32(_MSR | 1 << 19 | encoding << _FIELDS), _ALIAS + u64(user_slot_address()))
        count(esr)
    report(1)
    for op0 in range(2, 4):
        for encoding in range(_ENCODINGS):
            fields = op0 << 19 | encoding << _FIELDS
            value, esr = run(u32(_MRS | fields), 0)
            count(esr)
            if esr == 0:
                run(u32(_MSR | fields), value)
        report(u32(op0))
