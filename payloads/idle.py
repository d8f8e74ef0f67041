# SPDX-License-Identifier: Apache-2.0
"""A host with a timer that ticks: for a while it computes, for a while it waits, then it is over."""

from __future__ import annotations

from gz.arm64.insn import isb, wfi
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Va, u64
from gz.metal import export, log, noinline
from payloads import exceptions, start  # noqa: F401 - parts of every payload
from payloads.interrupts import enable, handled

TICKS = 100
TICKS_A_SECOND = 1000


def tick(begin: u64, number: u64) -> None:
    """The next one, so many after the beginning."""
    sysreg.CNTV_CVAL_EL0 = begin + number * sysreg.CNTFRQ_EL0 // TICKS_A_SECOND
    sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
    isb()


@noinline
def compute() -> u64:
    """Turns of a loop until all ticks have come."""
    turns: u64 = 0
    begin = sysreg.CNTVCT_EL0
    for number in range(TICKS):
        before = handled(0)
        tick(begin, number + 1)
        while handled(0) == before:
            turns += 1
    return turns


@noinline
def wait() -> u64:
    """Times that the CPU woke up."""
    wakes: u64 = 0
    begin = sysreg.CNTVCT_EL0
    for number in range(TICKS):
        before = handled(0)
        tick(begin, number + 1)
        while handled(0) == before:
            wfi()
            wakes += 1
    return wakes


@export
def payload(tree: Va) -> None:
    enable()
    turns = compute()
    log(f"{TICKS} ticks, {turns} turns")
    wakes = wait()
    log(f"{TICKS} ticks, {wakes} wakes")
