# SPDX-License-Identifier: Apache-2.0
"""The guest of payloads.lateness: each of its vCPUs sets timers as its desk orders, and says when they came."""

from __future__ import annotations

from enum import IntEnum
from typing import NoReturn

from gz.arm64.gic import SPURIOUS
from gz.arm64.insn import hvc, wfi, yield_
from gz.arm64.psci import Psci
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Va, Window, at, u32, u64
from gz.metal import mmio, unroll
from gz.vmm.maps import VIRT
from payloads import cores, timers
from payloads.gic_interface import end, find, open_interface, take
from payloads.secondary import start_cpu

DESK = VIRT.virtio
PHYSICAL = 1 << 8
"""With an order to set a timer: which one."""
TIMES = 1 << 16
"""With COMPARE: how often."""


class Order(IntEnum):
    SPIN = 0
    """Set a timer, and look for its interrupt."""
    WAIT = 1
    """The same by WFI."""
    SUSPEND = 2
    """The same by CPU_SUSPEND."""
    START = 3
    """Switch the second vCPU on."""
    PARK = 4
    """CPU_OFF, with both timers on."""
    COMPARE = 5
    """Look at the clock in turn with the other one."""
    BUSY = 6
    """Compute for a short time."""
    END = 7
    COMPUTE = 8
    """For ever, as all that follow."""
    CALL = 9
    SLEEP = 10
    STORM = 11
    """Timers fire, and interrupts are taken, all the time."""


SHORT = 100
"""Microseconds of BUSY, and to the timers of PARK."""
_DELAY = 300  # microseconds
_MORE = 37
_ON = CNT_CTL(ENABLE=1)
_STORM = 1000  # ticks
_ROUNDS = 10


class Desk(Window):
    """Registers of the VMM."""

    ORDER: u32 = at(0)
    DEADLINE: u64 = at(8)
    TAKEN: u64 = at(16)
    ANSWER: u64 = at(24)


#: Where its registers are.
ORDER, DEADLINE, TAKEN, ANSWER = (DESK + Desk.offset(name) for name in ("ORDER", "DEADLINE", "TAKEN", "ANSWER"))


def alarm(how: Order, physical: bool, round: u64) -> None:
    """One timer; the desk hears the physical counter at its deadline and when it was taken."""
    desk = mmio(Desk, Va(DESK))
    timers.forward(physical)
    deadline = timers.now(True) + timers.ticks(_DELAY + _MORE * round)
    desk.DEADLINE = deadline
    timers.set_deadline(physical, deadline if physical else deadline - (timers.now(True) - timers.now(False)))
    timers.set_control(physical, _ON)
    intid = take()
    while intid == SPURIOUS:
        if how == Order.WAIT:
            wfi()
        elif how == Order.SUSPEND:
            hvc(Psci.CPU_SUSPEND_64, 0, 0, 0)
        else:
            yield_()
        intid = take()
    taken = timers.now(True)
    timers.set_control(physical, 0)
    end(intid)
    desk.TAKEN = taken if intid == timers.intid(physical) else ~u64(0)


def park() -> NoReturn:
    """What a vCPU had set when it was switched off does not count any more."""
    for physical in unroll((False, True)):
        timers.forward(physical)
        timers.set_distance(physical, timers.ticks(SHORT))
        timers.set_control(physical, _ON)
    hvc(Psci.CPU_OFF)
    while True:
        pass


def start() -> None:
    cores.expect(1)
    start_cpu(1)
    while not cores.is_done(1):
        yield_()
    cores.ask(1, 0)


def compare(cpu: u64, times: u32) -> u64:
    behind: u64 = 0
    for _ in range(times):
        behind |= timers.compare(cpu)
    return behind


def compute() -> NoReturn:
    while True:
        yield_()


def call() -> NoReturn:
    while True:
        hvc(Psci.VERSION)


def sleep() -> NoReturn:
    while True:
        wfi()


def storm() -> NoReturn:
    """Both timers fire all the time; now and then an interrupt is taken."""
    timers.forward(False)
    timers.forward(True)
    while True:
        for physical in unroll((False, True)):
            timers.set_distance(physical, _STORM)
            timers.set_control(physical, _ON)
        wfi()
        intid = take()
        if intid != SPURIOUS:
            end(intid)


def serve(cpu: u64) -> None:
    """To the end of the guest."""
    desk = mmio(Desk, Va(DESK))
    desk.ANSWER = sysreg.CNTV_CTL_EL0 | sysreg.CNTP_CTL_EL0  # off after power-on
    find(Va(0))
    open_interface(cpu)
    round: u64 = 0
    while True:
        order = desk.ORDER
        round = (round + 1) % _ROUNDS
        how = Order(order % PHYSICAL)
        match how:
            case Order.START:
                start()
            case Order.PARK:
                park()
            case Order.COMPARE:
                desk.ANSWER = compare(cpu, order // TIMES)
            case Order.BUSY:
                limit = cores.deadline(SHORT)
                while not cores.passed(limit):
                    yield_()
            case Order.END:
                hvc(Psci.SYSTEM_OFF)
            case Order.COMPUTE:
                compute()
            case Order.CALL:
                call()
            case Order.SLEEP:
                sleep()
            case Order.STORM:
                storm()
            case Order.SPIN | Order.WAIT | Order.SUSPEND:
                alarm(how, order & PHYSICAL != 0, round)
