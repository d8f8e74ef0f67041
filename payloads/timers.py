# SPDX-License-Identifier: Apache-2.0
"""Checks of the virtual and the physical timer at EL1 (DDI 0487, D12), polled with interrupts masked.

The ground of kvm-unit-tests' timer, and that no CPU sees time go back.
"""

from __future__ import annotations

from gz.arm64.gic import SPURIOUS
from gz.arm64.insn import isb, wfi, yield_
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL, TimerInterrupt
from gz.bits import Struct, storage, u32, u64
from gz.metal import load_acquire, store_release, unroll
from payloads import cores, interrupts
from payloads.checks import SKIP, verdict
from payloads.gic_interface import end, private, take, take_within

_ON = CNT_CTL(ENABLE=1)
_MASKED = CNT_CTL(ENABLE=1, IMASK=1)
_FAR = 10_000_000  # microseconds
_SOON = 10_000
_WITHIN = 1_000_000  # a busy machine may stop the emulator; lateness is asserted where time is counted
_ROUNDS = 200
_NEVER = 0xFFFF_FFFF_FFFF_FFFF
_LAST = 1 << 62  # in ticks; with the last of all and an offset QEMU 7.2 overflows, and hangs
_WORD = 0xFFFF_FFFF
_NEGATIVE = _WORD & -1000


class Clock(Struct):
    """The counter of the last CPU that looked, handed to and fro; and how late timers were."""

    turn: u64
    count: u64
    late: u64
    """The most ticks that an interrupt came behind its deadline while the CPU was looking."""


CLOCK = storage(Clock)


def ticks(microseconds: u64) -> u64:
    return sysreg.CNTFRQ_EL0 * microseconds // 1_000_000


def lateness() -> u64:
    """In microseconds."""
    return CLOCK.late * 1_000_000 // sysreg.CNTFRQ_EL0


def now(physical: bool) -> u64:
    isb()
    return sysreg.CNTPCT_EL0 if physical else sysreg.CNTVCT_EL0


def control(physical: bool) -> CNT_CTL:
    isb()
    return CNT_CTL(sysreg.CNTP_CTL_EL0 if physical else sysreg.CNTV_CTL_EL0)


def set_control(physical: bool, value: u64) -> None:
    if physical:
        sysreg.CNTP_CTL_EL0 = value
    else:
        sysreg.CNTV_CTL_EL0 = value
    isb()


def set_deadline(physical: bool, value: u64) -> None:
    if physical:
        sysreg.CNTP_CVAL_EL0 = value
    else:
        sysreg.CNTV_CVAL_EL0 = value
    isb()


def set_distance(physical: bool, value: u64) -> None:
    if physical:
        sysreg.CNTP_TVAL_EL0 = value
    else:
        sysreg.CNTV_TVAL_EL0 = value
    isb()


def distance(physical: bool) -> u64:
    """As the register has it: 32 bits, signed."""
    isb()
    return sysreg.CNTP_TVAL_EL0 if physical else sysreg.CNTV_TVAL_EL0


def intid(physical: bool) -> u64:
    return TimerInterrupt.EL1_PHYSICAL if physical else TimerInterrupt.EL1_VIRTUAL


def bit(physical: bool) -> u32:
    return u32(1) << u32(intid(physical))


def is_pending(physical: bool) -> bool:
    return private(interrupts.cpu_index()).ISPENDR0 & bit(physical) != 0


def fires(physical: bool) -> bool:
    """The condition is met and the GIC sees it."""
    return control(physical).ISTATUS == 1 and is_pending(physical)


def silent(physical: bool) -> bool:
    return not is_pending(physical) and take() == SPURIOUS


# While the GIC does not forward the interrupt.


def signalled(physical: bool) -> u32:
    """Not before, at, masked, and after the timer is off."""
    private(interrupts.cpu_index()).ICENABLER0 = bit(physical)
    set_deadline(physical, now(physical) + ticks(_FAR))
    set_control(physical, _ON)
    holds = control(physical).ISTATUS == 0 and silent(physical)
    set_deadline(physical, now(physical) - 1)
    holds = holds and fires(physical) and take() == SPURIOUS
    set_control(physical, _MASKED)
    holds = holds and control(physical).ISTATUS == 1 and silent(physical)
    set_control(physical, _ON)
    holds = holds and fires(physical)
    set_control(physical, 0)
    return verdict(holds and silent(physical))


# While it does.


def forward(physical: bool) -> None:
    set_control(physical, 0)
    private(interrupts.cpu_index()).ISENABLER0 = bit(physical)


def by_deadline(physical: bool) -> u32:
    """In time; a level: it comes again as long as the timer fires."""
    forward(physical)
    deadline = now(physical) + ticks(_SOON)
    set_deadline(physical, deadline)
    set_control(physical, _ON)
    holds = take() == SPURIOUS
    holds = holds and take_within(_WITHIN) == intid(physical)
    late = now(physical) - deadline
    CLOCK.late = max(CLOCK.late, late)
    holds = holds and late < ticks(_WITHIN)
    holds = holds and private(interrupts.cpu_index()).ISACTIVER0 & bit(physical) != 0 and is_pending(physical)
    end(intid(physical))
    holds = holds and take_within(_WITHIN) == intid(physical)
    set_control(physical, 0)
    end(intid(physical))
    return verdict(holds and silent(physical))


def by_distance(physical: bool) -> u32:
    """While the CPU waits."""
    forward(physical)
    set_distance(physical, ticks(_SOON))
    set_control(physical, _ON)
    while control(physical).ISTATUS == 0:
        wfi()
    late = (0 - distance(physical)) & _WORD
    holds = late < ticks(_WITHIN) and take() == intid(physical)  # an idle emulator follows its own clock
    set_control(physical, 0)
    end(intid(physical))
    return verdict(holds and silent(physical))


def extremes(physical: bool) -> u32:
    """What is far away is never reached; a negative distance is over at once."""
    forward(physical)
    set_deadline(physical, _LAST)
    set_control(physical, _ON)
    holds = control(physical).ISTATUS == 0 and silent(physical)
    set_distance(physical, _NEGATIVE)
    holds = holds and take() == intid(physical)
    set_control(physical, 0)
    end(intid(physical))
    return verdict(holds and silent(physical))


def virtual_signalled() -> u32:
    return signalled(False)


def physical_signalled() -> u32:
    return signalled(True)


def virtual_deadline() -> u32:
    return by_deadline(False)


def physical_deadline() -> u32:
    return by_deadline(True)


def virtual_distance() -> u32:
    return by_distance(False)


def physical_distance() -> u32:
    return by_distance(True)


def virtual_extremes() -> u32:
    return extremes(False)


def physical_extremes() -> u32:
    return extremes(True)


def both() -> u32:
    """Each has its own deadline; neither is lost."""
    forward(False)
    forward(True)
    set_deadline(False, now(False) + 2 * ticks(_SOON))
    set_deadline(True, now(True) + ticks(_SOON))
    set_control(False, _ON)
    set_control(True, _ON)
    taken: u32 = 0
    for _ in range(2):
        timer = take_within(_WITHIN)
        for physical in unroll((False, True)):
            if timer == intid(physical):
                set_control(physical, 0)
                end(timer)
                taken |= bit(physical)
    return verdict(taken == bit(False) | bit(True) and silent(False) and silent(True))


# Between CPUs.


def compare(own: u64) -> u64:
    """Looks at the counter in turn with the other CPU; gives how often it was behind what that one saw."""
    behind: u64 = 0
    for _ in range(_ROUNDS):
        limit = cores.deadline(_WITHIN)
        while load_acquire(CLOCK.turn) != own:
            if cores.passed(limit):
                return _NEVER
            yield_()
        count = now(False)
        if count < CLOCK.count:
            behind += 1
        CLOCK.count = count
        store_release(CLOCK.turn, 1 - own)
    return behind


def no_reversal() -> u32:
    if cores.count() < 2:
        return SKIP
    CLOCK.turn = 0
    cores.ask(1, COMPARE_JOB)
    own = compare(0)
    return verdict(cores.wait(1) and own == 0 and cores.result(1) == 0)


COMPARE_JOB = 1

CHECKS = (
    ("virtual timer signalled", virtual_signalled),
    ("virtual timer by deadline", virtual_deadline),
    ("virtual timer by distance", virtual_distance),
    ("virtual timer's extremes", virtual_extremes),
    ("physical timer signalled", physical_signalled),
    ("physical timer by deadline", physical_deadline),
    ("physical timer by distance", physical_distance),
    ("physical timer's extremes", physical_extremes),
    ("both timers", both),
    ("no time reversal", no_reversal),
)
