# SPDX-License-Identifier: Apache-2.0
"""The driver's compiled part, in metal: a C library for the host, beside this module as `_doorbell.so`.

A doorbell call has to be one plain store that can be executed again, and the barriers and cache maintenance
that guest memory needs have no Python spelling. `gz.driver.doorbell` loads the library; nothing in the host
imports this module."""

from __future__ import annotations

from gz.abi.calls import Call, smc64
from gz.abi.exits import ExitReason
from gz.abi.run import RunPage
from gz.arm64.insn import dc, dmb, doorbell, dsb, isb
from gz.arm64.sysreg import sysreg
from gz.bits import Array, Struct, Va, array, u64
from gz.metal import export, read_once

RUN = smc64(Call.RUN)


class CallFrame(Struct):
    """x0-x7 of a call; x0-x3 are its results afterwards."""

    x: Array[u64] = array(8)


@export
def doorbell_call(page: Va, frame: CallFrame) -> None:
    """`page`: where the doorbell is mapped."""
    x = frame.x
    a, b, c, d = doorbell(page, x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7])
    x[0] = a
    x[1] = b
    x[2] = c
    x[3] = d


@export
def doorbell_call3(page: Va, function: u64, x1: u64, x2: u64, x3: u64) -> u64:
    """A call of up to three arguments whose only result is its status."""
    x0, _, _, _ = doorbell(page, function, x1, x2, x3)
    return x0


@export
def doorbell_run(page: Va, vcpu: u64, run: RunPage) -> u64:
    """Runs a vCPU (a VcpuTuple) until there is something for the driver; gives the exit reason.

    The core looks at `immediate_exit` itself whenever the store is executed, so a signal that is taken
    between two instructions here is not lost."""
    while True:
        _, reason, _, _ = doorbell(page, RUN, vcpu)
        if reason != ExitReason.IRQ and reason != ExitReason.GZ:
            return reason
        if read_once(run.immediate_exit) != 0:
            return reason


@export
def memory_barrier() -> None:
    dmb("ish")


@export
def clean_memory(start: Va, size: u64) -> None:
    """Cleans the data cache to the point of coherency, for a guest that starts with its caches off."""
    line = u64(4) << (sysreg.CTR_EL0 >> 16 & 15)  # DminLine, log2 of words
    end = start + size
    at = Va(u64(start) & ~(line - 1))
    while at < end:
        dc("cvac", at)
        at = at + line
    dsb("ish")


@export
def counter_frequency() -> u64:
    """Ticks per second of the counters."""
    return sysreg.CNTFRQ_EL0


@export
def virtual_counter() -> u64:
    isb()  # not earlier than the instructions before it (DDI 0487 D11.1.2)
    return sysreg.CNTVCT_EL0


@export
def physical_counter() -> u64:
    isb()
    return sysreg.CNTPCT_EL0
