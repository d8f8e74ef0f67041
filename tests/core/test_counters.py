# SPDX-License-Identifier: Apache-2.0
"""Performance monitors: each world has all of them while it runs, and finds them as it left them."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from test_sysregs import Trapped

import gz.core.counters as counters
from gz.arm64.gic import GicrSgi
from gz.arm64.syndrome import register_iss
from gz.arm64.sysreg import TABLE
from gz.core.outcome import Outcome

EVENTS = 6
SETS = {
    "PMCNTENSET_EL0": "PMCNTENCLR_EL0",
    "PMINTENSET_EL1": "PMINTENCLR_EL1",
    "PMOVSSET_EL0": "PMOVSCLR_EL0",
}
PLAIN = ("PMUSERENR_EL0", "PMCCNTR_EL0", "PMCCFILTR_EL0", "PMSELR_EL0")
E, PPI = 1, 1 << 23
SET_MASK = 1 << 31 | (1 << EVENTS) - 1
DFR0 = 4 << 8
HPMD = 1 << 17
TRAPS = 3 << 5


class Monitors:
    """The registers of one CPU: sets that are written bit by bit, counters behind a selector."""

    def __init__(self, trapped: Trapped) -> None:
        self.sysregs = trapped.jit.sysregs
        self.sets = dict.fromkeys(SETS, 0)
        self.count = [0] * EVENTS
        self.type = [0] * EVENTS
        self.control = 0
        jit = trapped.jit
        for name, clear in SETS.items():
            for reader in (name, clear):
                jit.on_read(reader, lambda name=name: self.sets[name])
            jit.on_write(name, lambda value, name=name: self.sets.update({name: self.sets[name] | value & SET_MASK}))
            jit.on_write(clear, lambda value, name=name: self.sets.update({name: self.sets[name] & ~value}))
        jit.on_read("PMCR_EL0", lambda: self.control | EVENTS << 11)
        jit.on_write("PMCR_EL0", lambda value: setattr(self, "control", value & 0xE9))
        for name, values in (("PMXEVCNTR_EL0", self.count), ("PMXEVTYPER_EL0", self.type)):
            jit.on_read(name, lambda values=values: values[self.sysregs.PMSELR_EL0])
            jit.on_write(name, lambda value, values=values: values.__setitem__(self.sysregs.PMSELR_EL0, value))

    def fill(self, rng: random.Random, counting: bool) -> None:
        for name in SETS:
            self.sets[name] = rng.getrandbits(32) & SET_MASK
        for name in PLAIN:
            setattr(self.sysregs, name, rng.randrange(EVENTS))
        self.count[:] = [rng.getrandbits(32) for _ in range(EVENTS)]
        self.type[:] = [rng.getrandbits(32) for _ in range(EVENTS)]
        self.control = rng.getrandbits(8) & 0xE8 | counting

    def content(self) -> tuple[object, ...]:
        plain = [getattr(self.sysregs, name) for name in PLAIN]
        return self.control, dict(self.sets), plain, list(self.count), list(self.type)


@pytest.fixture(scope="module")
def once() -> Trapped:
    return Trapped(counters.enter, counters.leave, counters.reset, counters.interrupt)


@pytest.fixture
def trapped(once: Trapped) -> Iterator[Trapped]:
    once.start()
    once.call(counters.reset)
    once.jit.sysregs.ID_AA64DFR0_EL1 = DFR0
    once.cpu.mdcr = HPMD | EVENTS
    once.vcpu.context.mdcr = TRAPS | HPMD | EVENTS
    yield once
    for name in (*SETS, *SETS.values(), "PMCR_EL0", "PMXEVCNTR_EL0", "PMXEVTYPER_EL0"):
        once.jit.on_read(name, None)
        once.jit.on_write(name, None)


@pytest.fixture
def monitors(trapped: Trapped) -> Monitors:
    return Monitors(trapped)


def first_use(trapped: Trapped) -> int:
    return trapped.access(register_iss(TABLE["PMCCNTR_EL0"]) | 3 << 5 | 1)


@pytest.mark.parametrize("counting", [False, True])
def test_who_uses_none_sees_none_and_stops_the_hosts(trapped: Trapped, monitors: Monitors, counting: bool) -> None:
    monitors.fill(random.Random(1), counting)
    hosts = monitors.content()
    trapped.call(counters.enter)
    assert monitors.control & E == 0
    assert trapped.vcpu.context.mdcr & TRAPS == TRAPS
    trapped.call(counters.leave)
    assert monitors.content() == hosts


@pytest.mark.parametrize("counting", [False, True])
def test_first_use_and_back(trapped: Trapped, monitors: Monitors, counting: bool) -> None:
    rng = random.Random(2)
    monitors.fill(rng, counting)
    hosts = monitors.content()
    trapped.call(counters.enter)
    assert first_use(trapped) == Outcome.RESUME
    assert trapped.jit.sysregs.MDCR_EL2 == HPMD | EVENTS
    assert not any(monitors.sets.values()) and not any(monitors.count) and not any(monitors.type)
    assert monitors.control == 0
    for _ in range(5):
        monitors.fill(rng, True)
        guests = monitors.content()
        trapped.call(counters.leave)
        assert monitors.content() == hosts
        trapped.vcpu.context.mdcr = TRAPS | HPMD | EVENTS
        trapped.call(counters.enter)
        assert monitors.content() == guests, "it counts, so it has them at once"
        assert trapped.vcpu.context.mdcr & TRAPS == 0


def test_who_counts_no_more_waits_for_the_next_use(trapped: Trapped, monitors: Monitors) -> None:
    monitors.fill(random.Random(3), True)
    hosts = monitors.content()
    trapped.call(counters.enter)
    first_use(trapped)
    monitors.count[3] = 99
    trapped.call(counters.leave)
    trapped.call(counters.enter)
    assert monitors.count[3] != 99
    first_use(trapped)
    assert monitors.count[3] == 99
    trapped.call(counters.leave)
    assert monitors.content() == hosts


def test_without_the_means_there_is_none(trapped: Trapped, monitors: Monitors) -> None:
    """EL2's events cannot be kept from guests."""
    trapped.cpu.mdcr = EVENTS
    assert first_use(trapped) == Outcome.UNDEFINED


@pytest.mark.parametrize("enabled", [False, True])
def test_overflow(trapped: Trapped, monitors: Monitors, enabled: bool) -> None:
    """The interrupt is the guest's only if its counters are there and overflowed; then it is held at the GIC."""
    frame = GicrSgi.view(memoryview(trapped.redistributor.memory)[0x1_0000:])
    frame.ISENABLER0 = frame.ICENABLER0 = frame.ISACTIVER0 = frame.ICACTIVER0 = 0
    assert not trapped.interrupt(counters.interrupt)
    trapped.call(counters.enter)
    first_use(trapped)
    assert frame.ISENABLER0 == PPI
    monitors.control = E
    monitors.sets["PMINTENSET_EL1"] = 2 if enabled else 0
    monitors.sets["PMOVSSET_EL0"] = 2
    assert trapped.interrupt(counters.interrupt) == enabled
    line = PPI if enabled else 0
    assert trapped.vcpu.gic.private.line == line
    held = frame.ISACTIVER0
    assert held == line
    trapped.call(counters.leave)
    assert trapped.vcpu.gic.private.line == line, "it stays pending while the vCPU is away"
    assert frame.ICENABLER0 == PPI, "the host had it disabled"
    given_up = frame.ICACTIVER0
    assert given_up == line
    assert not trapped.interrupt(counters.interrupt)


def test_anything(trapped: Trapped, monitors: Monitors) -> None:
    rng = random.Random(4)
    for _ in range(100):
        monitors.fill(rng, rng.random() < 0.5)
        hosts = monitors.content()
        trapped.vcpu.context.mdcr = TRAPS | HPMD | EVENTS
        trapped.call(counters.enter)
        if rng.random() < 0.5 and trapped.vcpu.counters.live == 0:
            assert first_use(trapped) == Outcome.RESUME
        if trapped.vcpu.counters.live != 0:
            monitors.fill(rng, rng.random() < 0.5)
        trapped.call(counters.leave)
        assert monitors.content() == hosts
