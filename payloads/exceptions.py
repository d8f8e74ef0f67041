# SPDX-License-Identifier: Apache-2.0
"""Synchronous exceptions: a payload says that it expects one, or it is over."""

from __future__ import annotations

from typing import NoReturn

from gz.arm64.registers import SPSR
from gz.arm64.syndrome import ESR_EL2, ExceptionClass
from gz.arm64.sysreg import sysreg
from gz.bits import Array, Struct, array, storage, u32, u64
from gz.metal import export, log, read_once, write_once
from payloads.console import power_off


class Expected(Struct):
    """Whether exceptions are expected, and the last one that was taken: 0 for none."""

    on: u64
    esr: u64
    far: u64


class Steps(Struct):
    """Where software step exceptions were taken; each lets one more instruction run."""

    count: u32
    at: Array[u64] = array(32)


EXPECTED = storage(Expected)
STEPS = storage(Steps)


def expect() -> None:
    """From now on the instruction that takes a synchronous exception is skipped; see :func:`taken`."""
    write_once(EXPECTED.on, 1)


def taken() -> u64:
    """ESR_EL1 of the exception taken since the last call; 0: none."""
    esr = read_once(EXPECTED.esr)
    write_once(EXPECTED.esr, 0)
    return esr


@export
def exception(esr: u64, elr: u64, far: u64) -> u64:
    """Called by the vectors; gives where to go on."""
    if ESR_EL2(esr).EC == ExceptionClass.STEP_SAME:
        STEPS.at[STEPS.count] = elr
        STEPS.count += 1
        sysreg.SPSR_EL1 = sysreg.SPSR_EL1 | SPSR(SS=1)
        return elr
    if read_once(EXPECTED.on) == 0:
        fault(esr, elr, far)
    write_once(EXPECTED.esr, esr)
    write_once(EXPECTED.far, far)
    # A supervisor call's is behind it already.
    return elr if ESR_EL2(esr).EC == ExceptionClass.SVC64 else elr + 4


@export
def fault(esr: u64, elr: u64, far: u64) -> NoReturn:
    log(f"unexpected exception: ESR_EL1 {esr:#x} ELR_EL1 {elr:#x} FAR_EL1 {far:#x}")
    power_off()
