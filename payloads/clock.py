# SPDX-License-Identifier: Apache-2.0
"""A guest that computes for a while, then sleeps from tick to tick of its timer, and says so each time."""

from __future__ import annotations

from gz.arm64.insn import isb, wfi
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Va, u64
from gz.metal import export, log
from payloads import exceptions, start  # noqa: F401 - parts of every payload
from payloads.interrupts import enable, handled

TICKS = 10
TICKS_A_SECOND = 500
TURNS = 1_000_000


@export
def payload(tree: Va) -> None:
    enable()
    turns: u64 = 0
    while turns < TURNS:
        turns += 1
        isb()
    log(f"{turns} turns")
    for number in range(TICKS):
        before = handled(0)
        sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0 + sysreg.CNTFRQ_EL0 // TICKS_A_SECOND
        sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
        isb()
        while handled(0) == before:
            wfi()
        log(f"tick {number}")
