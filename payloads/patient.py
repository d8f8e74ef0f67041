# SPDX-License-Identifier: Apache-2.0
"""A host with nothing to do: all its CPUs wait, from tick to tick of their timers, while guests come to their ends."""

from __future__ import annotations

from gz.arm64.insn import isb, wfi
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Va, u64
from gz.metal import export, log
from payloads import exceptions, start  # noqa: F401 - parts of every payload
from payloads.interrupts import enable, handled
from payloads.secondary import is_there, start_cpu

TICKS = 300
TICKS_A_SECOND = 100
_CPUS_MAX = 8


def wait(cpu: u64) -> None:
    enable()
    for _ in range(TICKS):
        before = handled(cpu)
        sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0 + sysreg.CNTFRQ_EL0 // TICKS_A_SECOND
        sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
        isb()
        while handled(cpu) == before:
            wfi()


@export
def secondary(cpu: u64) -> None:
    wait(cpu)


@export
def payload(tree: Va) -> None:
    for cpu in range(1, _CPUS_MAX):
        if is_there(cpu):
            start_cpu(cpu)
    wait(0)
    log(f"{TICKS} ticks")
