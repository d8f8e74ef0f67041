# SPDX-License-Identifier: Apache-2.0
"""The other CPUs of a payload: they do what the first one asks for, one job at a time.

A payload defines `job(cpu, number)`; what it returns is the job's result.
"""

from __future__ import annotations

from typing import NoReturn

from gz.arm64.insn import dc, hvc, isb, yield_
from gz.arm64.psci import Psci
from gz.arm64.sysreg import sysreg
from gz.bits import Struct, Va, storage, u64
from gz.metal import address, assembly, export, extern, load_acquire, read_once, store_release, write_once
from payloads.secondary import is_there, start_cpu

CPUS_MAX = 8
_LIMIT = 2_000_000  # microseconds

assembly(
    """
    .section .text.cores, "ax"
    .global do_job
    .type do_job, %function
do_job:
    b job
"""
)


@extern
def do_job(cpu: u64, number: u64) -> u64: ...


class Core(Struct):
    wanted: u64
    """A job's number + 1; 0: nothing to do, the last one is done."""
    result: u64
    probed: u64


CORES = storage(Core, CPUS_MAX)


@export
def secondary(cpu: u64) -> NoReturn:
    core = CORES[cpu]
    store_release(core.wanted, 0)
    while True:
        wanted = load_acquire(core.wanted)
        if wanted != 0:
            core.result = do_job(cpu, wanted - 1)
            store_release(core.wanted, 0)
        yield_()


def count() -> u64:
    """CPUs there are, on or off; no more than a payload can use."""
    for i in range(CPUS_MAX):
        if not is_there(i):
            return i
    return CPUS_MAX


def expect(cpu: u64) -> None:
    """It will be switched on, whoever does it."""
    CORES[cpu].wanted = 1


def switch_on(cpu: u64) -> bool:
    expect(cpu)
    start_cpu(cpu)
    return wait(cpu)


def probe(cpu: u64, entry: Va) -> u64:
    """Switch it on elsewhere, with the address for its answer as context id."""
    core = CORES[cpu]
    write_once(core.probed, ~u64(0))
    dc("civac", address(core.probed))
    hvc(Psci.CPU_ON_64, cpu, u64(entry), u64(address(core.probed)))
    end = deadline(_LIMIT)
    while read_once(core.probed) == ~u64(0) and not passed(end):
        yield_()
    return read_once(core.probed)


def ask(cpu: u64, number: u64) -> None:
    """The CPU is idle and begins with a job."""
    store_release(CORES[cpu].wanted, number + 1)


def is_done(cpu: u64) -> bool:
    return load_acquire(CORES[cpu].wanted) == 0


def wait(cpu: u64) -> bool:
    """Until its job is done, but no longer than a limit."""
    end = deadline(_LIMIT)
    while not is_done(cpu):
        if passed(end):
            return False
        yield_()
    return True


def result(cpu: u64) -> u64:
    return CORES[cpu].result


def run(cpu: u64, number: u64) -> u64:
    """A job from its beginning to its end; a CPU that does not answer gives ~0."""
    ask(cpu, number)
    return result(cpu) if wait(cpu) else ~u64(0)


def deadline(microseconds: u64) -> u64:
    isb()
    return sysreg.CNTVCT_EL0 + sysreg.CNTFRQ_EL0 * microseconds // 1_000_000


def passed(end: u64) -> bool:
    isb()
    return sysreg.CNTVCT_EL0 >= end
