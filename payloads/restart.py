# SPDX-License-Identifier: Apache-2.0
"""A guest that asks for a reset while its second vCPU talks on and on."""

from __future__ import annotations

from gz.arm64.insn import hvc, yield_
from gz.arm64.psci import Psci
from gz.bits import Struct, Va, storage, u64
from gz.metal import export, load_acquire, log, store_release
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.secondary import start_cpu


class Second(Struct):
    turns: u64


second = storage(Second)


@export
def secondary(cpu: u64) -> None:
    while True:
        log(f"turn {second.turns}")
        store_release(second.turns, second.turns + 1)


@export
def payload(tree: Va) -> None:
    start_cpu(1)
    while load_acquire(second.turns) == 0:
        yield_()
    hvc(Psci.SYSTEM_RESET)
    log("still there")
