# SPDX-License-Identifier: Apache-2.0
"""The driver's compiled part, in metal: a C library for the host, beside this module as `_driver.so`.

A doorbell call has to be one plain store that can be executed again. `gz.driver.doorbell` loads the library;
nothing in the host imports this module."""

from __future__ import annotations

from gz.abi.calls import VCPUS_MAX, Call, smc64
from gz.abi.exits import ExitReason
from gz.abi.run import HWSTATE_OFFSET, HwState, RunPage
from gz.arm64.insn import doorbell, isb, svc
from gz.arm64.sysreg import sysreg
from gz.bits import Array, Struct, Va, array, u64
from gz.driver.interface import INTERRUPTED
from gz.driver.shared import ASLEEP, AWAKE, RUNG, Entry, Shared, Sleep
from gz.metal import address, compare_exchange, exchange, export, read_once, view, write_once

RUN = smc64(Call.RUN)
WRITE, FUTEX, SCHED_YIELD = 64, 98, 124
"""System calls (Linux, asm-generic/unistd.h)."""
FUTEX_WAIT, FUTEX_WAKE = 128, 129
"""Of memory that only this process has (FUTEX_PRIVATE_FLAG; futex(2))."""
NANOSECONDS = 1_000_000_000


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
def doorbell_run(entry: Entry) -> u64:
    """Runs a vCPU until there is something for Python: gives the exit reason, or INTERRUPTED."""
    return run_on(entry)


@export
def doorbell_wake(shared: Shared) -> None:
    """Something happened in a VM: ends the sleep of its idle vCPUs, or their next one."""
    wake(shared, VCPUS_MAX)


def run_on(entry: Entry) -> u64:
    """Serves what gzvm version 13 serves by itself: interrupts of the host, sleeping, waking, ioeventfds.

    The core looks at `immediate_exit` itself whenever the store is executed, so a signal that is taken
    between two instructions here is not lost."""
    page, vcpu, run, shared = entry.page, entry.vcpu, entry.run, entry.shared
    index = vcpu & 0xFFFF
    while True:
        _, reason, _, _ = doorbell(page, RUN, vcpu)
        if reason == ExitReason.MMIO:
            if run.mmio.is_write == 0 or not signals(run, shared):
                return reason
            continue
        if reason == ExitReason.IDLE:
            sleep(shared.sleeps[index], view(HwState, address(run) + HWSTATE_OFFSET))
        elif reason == ExitReason.IPI:
            wake(shared, index)
        elif reason == ExitReason.GZ:
            svc(SCHED_YIELD)  # the guest waits for a vCPU that waits for this CPU
        elif reason != ExitReason.IRQ:
            return reason
        if read_once(run.immediate_exit) != 0:
            write_once(run.immediate_exit, 0)
            return INTERRUPTED


def signals(run: RunPage, shared: Shared) -> bool:
    """Signals the eventfd that a write is for; False if it is for none."""
    record = run.mmio
    for i in range(shared.watch_count):
        watch = shared.watches[i]
        if watch.address != record.phys_addr or (watch.length != 0 and watch.length != record.length):
            continue
        if watch.exact == 0 or (watch.data ^ record.data) << (64 - 8 * record.length) == 0:
            shared.event = 1
            svc(WRITE, u64(watch.fd), u64(address(shared)) + Shared.offset("event"), 8)
            return True
    return False


def sleep(own: Sleep, state: HwState) -> None:
    """Until somebody rings, a signal, or the time the core gave; not at all if it gave none."""
    delay = read_once(state.vtimer_delay)
    if read_once(state.vtimer_migrate) == 0 or delay == 0:
        return
    if compare_exchange(own.state, AWAKE, ASLEEP) == AWAKE:
        frequency = sysreg.CNTFRQ_EL0
        own.timeout.seconds = delay // frequency
        own.timeout.nanoseconds = delay % frequency * NANOSECONDS // frequency
        svc(FUTEX, u64(address(own)), FUTEX_WAIT, ASLEEP, u64(address(own.timeout)))
    exchange(own.state, AWAKE)


def wake(shared: Shared, but: u64) -> None:
    for i in range(VCPUS_MAX):
        if i != but and exchange(shared.sleeps[i].state, RUNG) == ASLEEP:
            svc(FUTEX, u64(address(shared.sleeps[i])), FUTEX_WAKE, 1)


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
