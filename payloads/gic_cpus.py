# SPDX-License-Identifier: Apache-2.0
"""Checks of the GIC on several CPUs: SGIs, routing, and accesses of every kind anywhere."""

from __future__ import annotations

from gz.arm64.gic import FRAME_SIZE, GICR_TYPER, MSI_TYPER, REDISTRIBUTOR_SIZE, SPURIOUS, Gicr, Gicv2m
from gz.arm64.gic_interface import ICC_SGI1R_EL1
from gz.arm64.insn import isb, yield_
from gz.arm64.sysreg import sysreg
from gz.bits import Struct, Va, storage, u8, u16, u32, u64
from gz.metal import export, fetch_add, mmio, peek8, peek16, peek32, peek64, poke8, poke16, poke32, poke64, read_once
from gz.vmm.maps import MSI_COUNT
from payloads import cores, exceptions
from payloads.checks import PASS, SKIP, verdict
from payloads.gic_interface import (
    ALL,
    CONTROL,
    FRAMES,
    SGI,
    SPI,
    WORD,
    deactivate,
    distributor,
    end,
    finish,
    is_active,
    open_interface,
    pend,
    redistributor,
    reset_block,
    reset_spi,
    send,
    spi_end,
    split,
    take,
    take_within,
)
from payloads.gic_life import MANY
from payloads.random import random

_WITHIN = 500_000  # microseconds
_QUIET = 20
_ROUNDS = 64
_POKES = 4096
_TURNS = 8


class Machine(Struct):
    cpus: u64
    served: u64  # interrupts that all CPUs have taken in `serve`
    closed: u64  # CPUs in `close`


MACHINE = storage(Machine)


# Jobs of the other CPUs.


OPEN_JOB, _TAKE_JOB, _SERVE_JOB, _KEEP_JOB, _POLL_JOB, _CLOSE_JOB = range(6)


@export
def job(cpu: u64, number: u64) -> u64:
    if number == OPEN_JOB:
        open_interface(cpu)
        return 0
    if number == _TAKE_JOB:
        return finish(take_within(_WITHIN))
    if number == _SERVE_JOB:
        return serve()
    if number == _CLOSE_JOB:
        return close()
    if number == _KEEP_JOB:
        return drop(take_within(_WITHIN))
    return finish(take_within(_QUIET))


def drop(intid: u64) -> u64:
    """It stays active."""
    split(True)
    if intid != SPURIOUS:
        end(intid)
    split(False)
    return intid


def serve() -> u64:
    """How many this CPU takes until all CPUs together have MANY, or for a limit, and once more."""
    taken: u64 = 0
    limit = cores.deadline(_WITHIN)
    while read_once(MACHINE.served) < MANY and not cores.passed(limit):
        if finish(take_within(_QUIET)) != SPURIOUS:
            taken += 1
            fetch_add(MACHINE.served, 1)
    if finish(take_within(_QUIET)) != SPURIOUS:
        taken += 1
    return taken


def close() -> u64:
    """With its group disabled until the others have taken MANY; how many come afterwards."""
    sysreg.ICC_IGRPEN1_EL1 = 0
    isb()
    fetch_add(MACHINE.closed, 1)
    limit = cores.deadline(_WITHIN)
    while read_once(MACHINE.served) < MANY and not cores.passed(limit):
        yield_()
    sysreg.ICC_IGRPEN1_EL1 = 1
    isb()
    taken: u64 = 0
    while finish(take_within(_QUIET)) != SPURIOUS:
        taken += 1
    return taken


def last_redistributor() -> u32:
    holds = True
    for cpu in range(MACHINE.cpus):
        typer = GICR_TYPER(mmio(Gicr, redistributor(cpu)).TYPER)
        low = peek32(redistributor(cpu) + Gicr.offset("TYPER"))
        high = peek32(redistributor(cpu) + Gicr.offset("TYPER") + 4)
        if typer.Affinity_Value != cpu or u64(typer) != u64(high) << 32 | low:
            holds = False
        if cpu + 1 < MACHINE.cpus and typer.Last != 0:
            holds = False
    return verdict(holds)


# SGIs.


def arrives_at(targets: u64) -> bool:
    """Exactly these CPUs get the SGI that was sent."""
    holds = True
    for cpu in range(1, MACHINE.cpus):
        got = cores.run(cpu, _POLL_JOB)
        if (got == SGI) != (targets >> cpu & 1 != 0):
            holds = False
    return holds and (finish(take()) == SGI) == (targets & 1 != 0)


def to_a_list() -> u32:
    if MACHINE.cpus < 2:
        return SKIP
    holds = True
    for targets in range(1 << MACHINE.cpus):
        send(targets)
        if not arrives_at(targets):
            holds = False
    return verdict(holds)


def to_all_others() -> u32:
    if MACHINE.cpus < 2:
        return SKIP
    sysreg.ICC_SGI1R_EL1 = ICC_SGI1R_EL1(INTID=SGI, IRM=1)
    isb()
    return verdict(arrives_at(~u64(1)))


def to_nobody() -> u32:
    """Affinities that no CPU has."""
    send(0xFF00)
    sysreg.ICC_SGI1R_EL1 = ICC_SGI1R_EL1(INTID=SGI, TargetList=0xFFFF, Aff1=0xAA)
    sysreg.ICC_SGI1R_EL1 = ICC_SGI1R_EL1(INTID=SGI, TargetList=0xFFFF, Aff2=0x55)
    sysreg.ICC_SGI1R_EL1 = ICC_SGI1R_EL1(INTID=SGI, TargetList=0xFFFF, Aff3=1)
    isb()
    return verdict(arrives_at(0))


def back_and_forth() -> u32:
    """An SGI for each other CPU in turn, taken by it while it looks."""
    if MACHINE.cpus < 2:
        return SKIP
    holds = True
    for i in range(_ROUNDS):
        cpu = 1 + i % (MACHINE.cpus - 1)
        cores.ask(cpu, _TAKE_JOB)
        send(u64(1) << cpu)
        if not cores.wait(cpu) or cores.result(cpu) != SGI:
            holds = False
    return verdict(holds)


# Routing.


def routed() -> u32:
    """To each CPU, and there alone."""
    if MACHINE.cpus < 2:
        return SKIP
    reset_spi(SPI)
    holds = True
    for cpu in range(1, MACHINE.cpus):
        distributor().IROUTER[SPI] = cpu
        pend(SPI)
        if take() != SPURIOUS or cores.run(cpu, _TAKE_JOB) != SPI:
            holds = False
    reset_spi(SPI)
    return verdict(holds)


def rerouted_while_pending() -> u32:
    if MACHINE.cpus < 2:
        return SKIP
    reset_spi(SPI)
    pend(SPI)
    distributor().IROUTER[SPI] = 1
    holds = take() == SPURIOUS and cores.run(1, _TAKE_JOB) == SPI
    distributor().IROUTER[SPI] = 0xAA00  # nobody
    pend(SPI)
    holds = holds and take() == SPURIOUS and cores.run(1, _POLL_JOB) == SPURIOUS
    distributor().IROUTER[SPI] = 0
    holds = holds and finish(take_within(_WITHIN)) == SPI
    return verdict(holds)


def others_run() -> None:
    """An emulator may run one CPU after the other, and change at this instruction."""
    for _ in range(_TURNS):
        yield_()


def one_of_n() -> u32:
    """Every one of many comes to exactly one CPU, whichever."""
    if MACHINE.cpus < 2:
        return SKIP
    reset_block(MANY)
    for i in range(MANY):
        distributor().IROUTER[SPI + i] = 1 << 31
    MACHINE.served = 0
    for cpu in range(1, MACHINE.cpus):
        cores.ask(cpu, _SERVE_JOB)
    for i in range(MANY):
        pend(SPI + i)
        others_run()
    taken = serve()
    holds = True
    for cpu in range(1, MACHINE.cpus):
        if not cores.wait(cpu):
            holds = False
        taken += cores.result(cpu)
    reset_block(MANY)
    return verdict(holds and taken == MANY)


def one_of_n_to_who_listens() -> u32:
    """Not to a CPU whose group is disabled; to one that enables it later."""
    if MACHINE.cpus < 2:
        return SKIP
    reset_block(MANY)
    MACHINE.served = 0
    MACHINE.closed = 0
    for cpu in range(1, MACHINE.cpus):
        cores.ask(cpu, _CLOSE_JOB)
    while read_once(MACHINE.closed) + 1 < MACHINE.cpus:
        yield_()
    sysreg.ICC_IGRPEN1_EL1 = 0
    isb()
    for i in range(MANY):
        distributor().IROUTER[SPI + i] = 1 << 31
        pend(SPI + i)
        others_run()
        if i == MANY // 2:
            sysreg.ICC_IGRPEN1_EL1 = 1
            isb()
    taken = serve()
    holds = taken == MANY
    for cpu in range(1, MACHINE.cpus):
        if not cores.wait(cpu) or cores.result(cpu) != 0:
            holds = False
    reset_block(MANY)
    return verdict(holds)


def deactivated_elsewhere() -> u32:
    """An SPI that one CPU has taken and another deactivates."""
    if MACHINE.cpus < 2:
        return SKIP
    reset_spi(SPI)
    distributor().IROUTER[SPI] = 1
    pend(SPI)
    holds = cores.run(1, _KEEP_JOB) == SPI and is_active(SPI)
    split(True)
    deactivate(SPI)
    holds = holds and not is_active(SPI)
    split(False)
    reset_spi(SPI)
    return verdict(holds)


# Messages.


def message() -> u32:
    """A store of its number to the GICv2m frame, if there is one, makes an SPI pending; of others nothing."""
    exceptions.expect()
    frame = mmio(Gicv2m, Va(FRAMES.messages))
    typer = MSI_TYPER(frame.MSI_TYPER)
    if exceptions.taken() != 0 or typer.COUNT == 0:
        return SKIP
    holds = typer.COUNT == MSI_COUNT
    for i in range(typer.COUNT):
        intid = u64(typer.BASE + i)
        reset_spi(intid)
        frame.MSI_SETSPI_NS = u32(intid)
        if finish(take_within(_WITHIN)) != intid or take() != SPURIOUS:
            holds = False
    reset_spi(typer.BASE + typer.COUNT)
    frame.MSI_SETSPI_NS = u32(typer.BASE + typer.COUNT)
    return verdict(holds and take_within(_QUIET) == SPURIOUS)


# Anything.


def poke(at: Va, kind: u64) -> None:
    value = random()
    if kind == 0:
        poke8(at, u8(value))
    elif kind == 1:
        poke16(at, u16(value))
    elif kind == 2:
        poke32(at, u32(value))
    elif kind == 3:
        poke64(at, value)
    elif kind == 4:
        _byte = peek8(at)
    elif kind == 5:
        _half = peek16(at)
    elif kind == 6:
        _word = peek32(at)
    else:
        _doubleword = peek64(at)


def anything() -> u32:
    """Accesses of every width to all addresses of distributor and redistributors; it works as before afterwards."""
    exceptions.expect()
    size = MACHINE.cpus * REDISTRIBUTOR_SIZE
    for _ in range(_POKES):
        offset = random()
        if random() & 1 == 0:
            poke(Va(FRAMES.distributor + offset % (FRAME_SIZE - 8)), random() & 7)
        else:
            poke(Va(FRAMES.redistributors + offset % (size - 8)), random() & 7)
    _ = exceptions.taken()
    set_up()
    for cpu in range(1, MACHINE.cpus):
        if cores.run(cpu, OPEN_JOB) != 0 or cores.run(cpu, _SERVE_JOB) != 0:
            return verdict(False)
    while finish(take()) != SPURIOUS:
        pass
    return PASS


def set_up() -> None:
    """Nothing pending or active, everything at CPU 0 but the SGIs."""
    gicd = distributor()
    for word in range(1, spi_end() // WORD + 1):
        gicd.ICENABLER[word] = ALL
        gicd.ICPENDR[word] = ALL
        gicd.ICACTIVER[word] = ALL
    gicd.CTLR = CONTROL
    open_interface(0)


CHECKS = (
    ("last redistributor", last_redistributor),
    ("SGI to a list", to_a_list),
    ("SGI to all others", to_all_others),
    ("SGI to nobody", to_nobody),
    ("SGI back and forth", back_and_forth),
    ("routed", routed),
    ("rerouted while pending", rerouted_while_pending),
    ("one of n", one_of_n),
    ("one of n to who listens", one_of_n_to_who_listens),
    ("deactivated elsewhere", deactivated_elsewhere),
    ("message", message),
    ("anything", anything),
    ("SGI to a list again", to_a_list),
)
