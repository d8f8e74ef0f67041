# SPDX-License-Identifier: Apache-2.0
"""A guest whose vCPUs compute for ever, without a timer and without a wait; each says so now and then."""

from __future__ import annotations

from typing import NoReturn

from gz.bits import Va, u64
from gz.metal import export, log
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.secondary import is_there, start_cpu

TURNS = 100_000
_CPUS_MAX = 8


def compute(cpu: u64) -> NoReturn:
    number: u64 = 0
    while True:
        for _ in range(TURNS):
            interrupts.handled(cpu)
        number += 1
        log(f"CPU {cpu} {number}")


@export
def secondary(cpu: u64) -> None:
    compute(cpu)


@export
def payload(tree: Va) -> None:
    for cpu in range(1, _CPUS_MAX):
        if is_there(cpu):
            start_cpu(cpu)
    compute(0)
