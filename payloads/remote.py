# SPDX-License-Identifier: Apache-2.0
"""A host that makes the calls somebody else writes into its memory, each on the CPU named there: the tests, which see
that memory from outside.

Powers off when the function id is 0.
"""

from __future__ import annotations

from gz.arm64.insn import hvc, isb, wfi
from gz.arm64.registers import SPSR
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Array, Struct, Va, array, u64
from gz.metal import export, load_acquire, log, store_release, view
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.secondary import is_there, start_cpu

#: Where RAM is that nothing else uses, with 512 MiB in the machine.
EXCHANGE = 0x57E0_0000
_REST = 3000  # ticks of 16 ns


class Exchange(Struct):
    asked: u64  # counts the requests; written last
    answered: u64
    cpu: u64  # who makes the call
    arguments: Array[u64] = array(8)
    results: Array[u64] = array(4)


def rest() -> None:
    """Let whoever asks have the emulator's processor for a while."""
    sysreg.DAIF = SPSR(I=1)  # an interrupt before the WFI would be one that it waits for
    sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0 + _REST
    sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
    isb()
    wfi()
    sysreg.DAIF = 0


@export
def secondary(index: u64) -> None:
    interrupts.enable()
    serve(index)


def serve(cpu: u64) -> None:
    exchange = view(Exchange, Va(EXCHANGE))
    x = exchange.arguments
    while True:
        while load_acquire(exchange.asked) == load_acquire(exchange.answered) or exchange.cpu != cpu:
            rest()
        if x[0] == 0:
            return
        a, b, c, d = hvc(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7])
        exchange.results[0] = a
        exchange.results[1] = b
        exchange.results[2] = c
        exchange.results[3] = d
        store_release(exchange.answered, exchange.asked)


@export
def payload(tree: Va) -> None:
    interrupts.enable()
    cpu: u64 = 1
    while is_there(cpu):
        start_cpu(cpu)
        cpu += 1
    log("host: ready")
    serve(0)
