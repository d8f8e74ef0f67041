# SPDX-License-Identifier: Apache-2.0
"""Checks of the GIC on one CPU: registers, the life of an interrupt, priorities, more than there are list registers."""

from __future__ import annotations

from gz.arm64.gic import EDGE, GICD_CTLR, INTERRUPTS_MAX, PRIVATE_INTERRUPTS, SPURIOUS, Gicd
from gz.arm64.insn import wfi
from gz.arm64.sysreg import sysreg
from gz.bits import Array, Struct, Va, array, storage, u8, u32
from gz.metal import peek8, peek32, poke8, poke32
from payloads.checks import verdict
from payloads.gic_interface import (
    CONTROL,
    FRAMES,
    OPEN,
    PRIORITY,
    SGI,
    SPI,
    STEP,
    WORD,
    bit,
    deactivate,
    distributor,
    end,
    finish,
    is_active,
    is_pending,
    pend,
    private,
    reset_block,
    reset_spi,
    send,
    spi_end,
    split,
    take,
)

MANY = 24  # more than a CPU has list registers
_DEEP = 12


class Seen(Struct):
    """How often each interrupt was taken."""

    count: Array[u8] = array(INTERRUPTS_MAX)


SEEN = storage(Seen)


# Registers.


def identification() -> u32:
    """What is read-only stays; what has no name is zero."""
    gicd = distributor()
    typer, iidr, pidr2 = gicd.TYPER, gicd.IIDR, gicd.PIDR2
    gicd.TYPER = ~typer
    gicd.IIDR = ~iidr
    gicd.PIDR2 = ~pidr2
    same = gicd.TYPER == typer and gicd.IIDR == iidr and gicd.PIDR2 == pidr2
    return verdict(same and pidr2 >> 4 & 15 >= 3 and gicd.CTLR & u32(GICD_CTLR(RWP=1)) == 0)


def priorities() -> u32:
    """By bytes and by words; the implemented bits are kept."""
    at = Va(FRAMES.distributor + Gicd.offset("IPRIORITYR") + SPI)
    poke32(at, 0x1020_3040)
    bytes_read = peek8(at) == 0x40 and peek8(at + 3) == 0x10
    poke8(at + 1, 0xF0)
    return verdict(bytes_read and peek32(at) == 0x1020_F040)


def configuration() -> u32:
    """The trigger of an SPI can be chosen, that of an SGI is an edge."""
    gicd = distributor()
    gicd.ICENABLER[SPI // WORD] = bit(SPI)
    gicd.ICFGR[SPI // 16] = 0
    level = gicd.ICFGR[SPI // 16] & EDGE
    gicd.ICFGR[SPI // 16] = EDGE
    edge = gicd.ICFGR[SPI // 16] & EDGE
    sgis = private(0).ICFGR[0]
    private(0).ICFGR[0] = 0
    return verdict(level == 0 and edge == EDGE and sgis == 0xAAAA_AAAA and private(0).ICFGR[0] == sgis)


def every_spi() -> u32:
    """All that there are, pending at once, each taken once."""
    last = spi_end()
    for i in range(PRIVATE_INTERRUPTS, last):
        reset_spi(i)
        SEEN.count[i] = 0
    for i in range(PRIVATE_INTERRUPTS, last):
        pend(i)
    for _ in range(PRIVATE_INTERRUPTS, last):
        intid = take()
        if intid >= last or SEEN.count[intid] != 0:
            return verdict(False)
        SEEN.count[intid] = 1
        end(intid)
    return verdict(take() == SPURIOUS)


# Life of one interrupt.


def states() -> u32:
    """Pending, active, both, and none."""
    reset_spi(SPI)
    pend(SPI)
    holds = is_pending(SPI) and not is_active(SPI)
    holds = holds and take() == SPI and not is_pending(SPI) and is_active(SPI)
    pend(SPI)
    holds = holds and is_pending(SPI) and is_active(SPI) and take() == SPURIOUS
    end(SPI)
    holds = holds and take() == SPI
    end(SPI)
    return verdict(holds and not is_pending(SPI) and not is_active(SPI))


def disabled() -> u32:
    reset_spi(SPI)
    distributor().ICENABLER[SPI // WORD] = bit(SPI)
    pend(SPI)
    holds = take() == SPURIOUS and is_pending(SPI)
    distributor().ISENABLER[SPI // WORD] = bit(SPI)
    holds = holds and take() == SPI
    end(SPI)
    return verdict(holds)


def withdrawn() -> u32:
    reset_spi(SPI)
    pend(SPI)
    distributor().ICPENDR[SPI // WORD] = bit(SPI)
    return verdict(take() == SPURIOUS and not is_pending(SPI))


def group_disabled() -> u32:
    reset_spi(SPI)
    pend(SPI)
    distributor().CTLR = GICD_CTLR(EnableGrp0=1, ARE_S=1)
    while GICD_CTLR(distributor().CTLR).RWP == 1:
        pass
    holds = take() == SPURIOUS
    distributor().CTLR = CONTROL
    holds = holds and take() == SPI
    end(SPI)
    return verdict(holds)


def masked() -> u32:
    """Only what is above the priority mask is signalled."""
    reset_spi(SPI)
    sysreg.ICC_PMR_EL1 = PRIORITY
    pend(SPI)
    holds = take() == SPURIOUS
    sysreg.ICC_PMR_EL1 = PRIORITY + STEP
    holds = holds and take() == SPI
    end(SPI)
    sysreg.ICC_PMR_EL1 = OPEN
    return verdict(holds)


def cleared_active() -> u32:
    """An SGI whose active state is cleared by hand comes again (kvm-unit-tests' gicv3-active)."""
    send(1)
    holds = take() == SGI and private(0).ISACTIVER0 & 1 << SGI != 0
    private(0).ICACTIVER0 = 1 << SGI
    holds = holds and private(0).ISACTIVER0 & 1 << SGI == 0
    end(SGI)
    send(1)
    holds = holds and take() == SGI
    end(SGI)
    return verdict(holds)


def to_self() -> u32:
    send(1)
    return verdict(finish(take()) == SGI and take() == SPURIOUS)


def wakes() -> u32:
    """WFI ends with an interrupt that PSTATE masks."""
    send(1)
    wfi()
    return verdict(finish(take()) == SGI)


# Priorities.


def by_priority() -> u32:
    """More than there are list registers come with the best first, whatever the order in which they became pending."""
    reset_block(MANY)
    for i in range(MANY):
        distributor().IPRIORITYR[SPI + i] = u8((i * 5 % MANY) * STEP)
    for i in range(MANY):
        pend(SPI + i)
    for expected in range(MANY):
        intid = take()
        if intid == SPURIOUS or distributor().IPRIORITYR[intid] != expected * STEP:
            return verdict(False)
        end(intid)
    return verdict(take() == SPURIOUS)


def nested() -> u32:
    """Each interrupts the one before, deeper than there are list registers; they end in reverse."""
    reset_block(_DEEP)
    for i in range(_DEEP):
        distributor().IPRIORITYR[SPI + i] = u8((_DEEP - i) * STEP)
    holds = True
    for i in range(_DEEP):
        pend(SPI + i)
        if take() != SPI + i or sysreg.ICC_RPR_EL1 != (_DEEP - i) * STEP:
            holds = False
    for i in range(_DEEP):
        last = SPI + _DEEP - 1 - i
        if not is_active(last):
            holds = False
        pend(last)
        end(last)
        if take() != last or not is_active(last):
            holds = False
        end(last)
        if is_active(last):
            holds = False
    return verdict(holds and take() == SPURIOUS)


def preempted_by_many() -> u32:
    """With most active and most pending at the same time the best is signalled and no other."""
    reset_block(MANY)
    for i in range(MANY):
        distributor().IPRIORITYR[SPI + i] = u8((MANY - i) * STEP)
    holds = True
    for i in range(0, MANY, 2):
        pend(SPI + i)
        if take() != SPI + i:
            holds = False
    for i in range(MANY - 1):
        pend(SPI + i)
    if take() != SPURIOUS:
        holds = False
    pend(SPI + MANY - 1)
    if take() != SPI + MANY - 1:
        holds = False
    end(SPI + MANY - 1)
    for i in range(MANY - 2, -1, -1):
        if i % 2 == 0:
            end(SPI + i)  # the one from the beginning
        if take() != SPI + i:
            holds = False
        end(SPI + i)
    return verdict(holds and take() == SPURIOUS)


# EOImode = 1.


def deactivated_in_any_order() -> u32:
    """Dropped at once, deactivated later and in another order, deeper than there are list registers."""
    reset_block(_DEEP)
    split(True)
    holds = True
    for i in range(_DEEP):
        pend(SPI + i)
        if take() != SPI + i:
            holds = False
        end(SPI + i)
    if sysreg.ICC_RPR_EL1 != 0xFF:
        holds = False
    for i in range(_DEEP):
        pend(SPI + i)
        if not is_active(SPI + i) or take() != SPURIOUS:
            holds = False
    for i in range(_DEEP):
        chosen = SPI + i * 5 % _DEEP
        deactivate(chosen)
        if is_active(chosen) or take() != chosen:
            holds = False
        end(chosen)
        deactivate(chosen)
        if is_active(chosen):
            holds = False
    split(False)
    return verdict(holds and take() == SPURIOUS)


CHECKS = (
    ("identification", identification),
    ("priority registers", priorities),
    ("configuration", configuration),
    ("every SPI", every_spi),
    ("states", states),
    ("disabled", disabled),
    ("withdrawn", withdrawn),
    ("group disabled", group_disabled),
    ("priority mask", masked),
    ("active cleared", cleared_active),
    ("SGI to self", to_self),
    ("wait for interrupt", wakes),
    ("best first", by_priority),
    ("nested", nested),
    ("preempted by many", preempted_by_many),
    ("deactivated in any order", deactivated_in_any_order),
)
