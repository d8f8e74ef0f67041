# SPDX-License-Identifier: Apache-2.0
"""Every encoding of MRS, MSR and SYS executed at EL1: each gives a value or an exception, and the machine goes on.

Prints how many of each kind worked and how many were undefined. MSR writes back what MRS just gave, so that the
payload survives its own success.
"""

from __future__ import annotations

from gz.arm64.insn import isb
from gz.arm64.registers import CPACR_EL1
from gz.arm64.syndrome import UNDEFINED
from gz.arm64.sysreg import sysreg
from gz.bits import Array, Struct, Va, array, storage, u8, u32, u64
from gz.metal import address, export, log
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.slot import run

#: Instructions of the system class with every field zero (DDI 0487, C4.1.93): op0 is bits 20:19.
_MSR = 0xD500_0000
_MRS = 0xD520_0000
_FIELDS = 5
_ENCODINGS = 1 << 14


class Scratch(Struct, align=4096):
    """Memory for SYS instructions that take an address."""

    bytes: Array[u8] = array(4096)


SCRATCH = storage(Scratch)


class Tally(Struct):
    done: u32
    undefined: u32
    other: u32


TALLY = storage(Tally)


def count(esr: u64) -> None:
    if esr == 0:
        TALLY.done += 1
    elif esr == UNDEFINED:
        TALLY.undefined += 1
    else:
        TALLY.other += 1


def clear() -> None:
    TALLY.done = 0
    TALLY.undefined = 0
    TALLY.other = 0


@export
def payload(tree: Va) -> None:
    exceptions.expect()
    sysreg.CPACR_EL1 = CPACR_EL1(FPEN=3, ZEN=3, SMEN=3)
    isb()
    for op0 in range(2, 4):
        clear()
        for encoding in range(_ENCODINGS):
            fields = op0 << 19 | encoding << _FIELDS
            value, esr = run(u32(_MRS | fields), 0)
            count(esr)
            if esr == 0:
                run(u32(_MSR | fields), value)
        log(f"mrs op0 {op0}: {TALLY.done} read, {TALLY.undefined} undefined, {TALLY.other} other")
    clear()
    for encoding in range(_ENCODINGS):
        _, esr = run(u32(_MSR | 1 << 19 | encoding << _FIELDS), u64(address(SCRATCH)))
        count(esr)
    log(f"sys: {TALLY.done} done, {TALLY.undefined} undefined, {TALLY.other} other")
