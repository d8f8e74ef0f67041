# SPDX-License-Identifier: Apache-2.0
"""The GICv3 as its CPUs see it: one line for each check, on one to eight CPUs.

The ground of kvm-unit-tests' gic, and what lies behind it: priorities, preemption, more interrupts than a hypervisor
has list registers.
"""

from __future__ import annotations

from gz.bits import Va, function_table, u32
from gz.metal import export, log, unroll
from payloads import cores, exceptions, gic_cpus, gic_life, interrupts, start  # noqa: F401 - parts of every payload
from payloads.checks import PASS, SKIP, Check
from payloads.gic_interface import find, spi_end
from payloads.random import seed

_SEED = 88172645463325252
_CHECKS = (*gic_life.CHECKS, *gic_cpus.CHECKS)
_RUN = function_table(Check, [check for _, check in _CHECKS])


def run(number: u32) -> u32:
    return _RUN[number]()


@export
def payload(tree: Va) -> None:
    find(tree)
    seed(_SEED)
    gic_cpus.MACHINE.cpus = cores.count()
    gic_cpus.set_up()
    for cpu in range(1, gic_cpus.MACHINE.cpus):
        if not cores.switch_on(cpu) or cores.run(cpu, gic_cpus.OPEN_JOB) != 0:
            log(f"FAIL CPU {cpu}")
            return
    log(f"{gic_cpus.MACHINE.cpus} CPUs, INTIDs below {spi_end()}")
    for i, named in unroll(tuple(enumerate(_CHECKS))):
        outcome = run(i)
        if outcome == PASS:
            log(f"PASS {named[0]}")
        elif outcome == SKIP:
            log(f"SKIP {named[0]}")
        else:
            log(f"FAIL {named[0]}")
