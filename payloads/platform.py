# SPDX-License-Identifier: Apache-2.0
"""Timers, PSCI and exceptions as a guest sees them: one line for each check, on one to eight CPUs."""

from __future__ import annotations

from gz.arm64.insn import hvc
from gz.arm64.psci import Psci
from gz.bits import Va, function_table, u32, u64
from gz.metal import export, log, unroll
from payloads import cores, el0_vectors, exceptions, interrupts, power, start, timers, vectors  # noqa: F401 - parts
from payloads.checks import PASS, SKIP, Check
from payloads.gic_interface import CONTROL, distributor, find, open_interface

_CHECKS = (*vectors.CHECKS, *el0_vectors.CHECKS, *timers.CHECKS, *power.CHECKS)
_RUN = function_table(Check, [check for _, check in _CHECKS])
_OPEN_JOB = 0


def run(number: u32) -> u32:
    return _RUN[number]()


@export
def job(cpu: u64, number: u64) -> u64:
    if number == timers.COMPARE_JOB:
        return timers.compare(cpu)
    if number == power.NUMBER_JOB:
        return power.number()
    if number == power.OFF_JOB:
        hvc(Psci.CPU_OFF)
    elif number == power.ON_JOB:
        return power.switch_first()
    else:
        open_interface(cpu)
    return 0


@export
def payload(tree: Va) -> None:
    find(tree)
    distributor().CTLR = CONTROL
    open_interface(0)
    for cpu in range(1, cores.count()):
        if not cores.switch_on(cpu) or cores.run(cpu, _OPEN_JOB) != 0:
            log(f"FAIL CPU {cpu}")
            return
    log(f"{cores.count()} CPUs")
    for i, named in unroll(tuple(enumerate(_CHECKS))):
        outcome = run(i)
        if outcome == PASS:
            log(f"PASS {named[0]}")
        elif outcome == SKIP:
            log(f"SKIP {named[0]}")
        else:
            log(f"FAIL {named[0]}")
    log(f"late by {timers.lateness()} microseconds")
