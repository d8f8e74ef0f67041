# SPDX-License-Identifier: Apache-2.0
"""Debug registers: a guest's are in the CPU while it has debug exceptions enabled, the host's at any other time."""

from __future__ import annotations

import random

import pytest
from test_sysregs import WORD, Trapped

import gz.core.debug as debug
from gz.abi.exits import Watch
from gz.arm64.sysreg import TABLE

BRPS, WRPS = 6, 4
DFR0 = 8 | (BRPS - 1) << 12 | (WRPS - 1) << 20
SS, KDE, MDE = 1 << 0, 1 << 13, 1 << 15
COMPARATORS = [f"DBGB{kind}R{n}_EL1" for n in range(BRPS) for kind in "VC"] + [
    f"DBGW{kind}R{n}_EL1" for n in range(WRPS) for kind in "VC"
]


@pytest.fixture(scope="module")
def once() -> Trapped:
    return Trapped(debug.load, debug.unload, debug.reset)


@pytest.fixture
def trapped(once: Trapped) -> Trapped:
    """The host has filled all of its registers; the guest's are as after reset."""
    once.start()
    once.call(debug.reset)
    once.jit.sysregs.ID_AA64DFR0_EL1 = DFR0
    for i, name in enumerate(COMPARATORS):
        setattr(once.jit.sysregs, name, host_value(i))
    once.jit.sysregs.OSLSR_EL1 = 0b1010
    return once


def host_value(i: int) -> int:
    return 0x4057_0000 + i


def in_cpu(trapped: Trapped) -> list[int]:
    return [getattr(trapped.jit.sysregs, name) for name in COMPARATORS]


HOSTS = [host_value(i) for i in range(len(COMPARATORS))]


def test_a_guest_starts_with_nothing(trapped: Trapped) -> None:
    assert all(trapped.read(name) == 0 for name in TABLE if name.startswith(("DBGBVR", "DBGBCR", "DBGWVR", "DBGWCR")))
    assert trapped.read("OSLSR_EL1") == 0b1010
    assert trapped.read("MDSCR_EL1") == 0


def test_without_debug_exceptions_nothing_of_the_hosts_changes(trapped: Trapped) -> None:
    for name in COMPARATORS:
        assert trapped.write(name, WORD)
    assert trapped.write("MDSCR_EL1", WORD)
    assert trapped.jit.sysregs.MDSCR_EL1 & (SS | MDE) == 0, "the OS lock is set"
    assert trapped.write("OSLAR_EL1", 0)
    assert trapped.write("MDSCR_EL1", KDE)
    assert in_cpu(trapped) == HOSTS


@pytest.mark.parametrize("enable", [SS, MDE, SS | MDE | KDE])
def test_enabled_and_back(trapped: Trapped, enable: int) -> None:
    trapped.write("OSLAR_EL1", 0)
    for i, name in enumerate(COMPARATORS):
        trapped.write(name, i << 16 | i)
    wanted = [trapped.read(name) for name in COMPARATORS]
    trapped.write("MDSCR_EL1", enable)
    assert trapped.jit.sysregs.MDSCR_EL1 == trapped.read("MDSCR_EL1") == enable
    assert in_cpu(trapped) == wanted
    assert trapped.jit.sysregs.OSLAR_EL1 == 0
    trapped.write("DBGBVR3_EL1", 0x1234)
    assert trapped.jit.sysregs.DBGBVR3_EL1 == 0x1234
    trapped.call(debug.unload)
    assert in_cpu(trapped) == HOSTS
    assert trapped.jit.sysregs.OSLAR_EL1 == 1, "the host's lock was set"
    trapped.call(debug.load)
    assert trapped.jit.sysregs.DBGBVR3_EL1 == 0x1234
    trapped.write("OSLAR_EL1", 1)
    assert in_cpu(trapped) == HOSTS
    hardware = trapped.jit.sysregs.MDSCR_EL1
    assert hardware == enable & KDE
    assert trapped.read("MDSCR_EL1") == enable


def test_nothing_above_el1_can_be_named(trapped: Trapped) -> None:
    """HMC and SSC choose EL2 and security states, some types match VMIDs."""
    assert trapped.write("DBGBCR0_EL1", WORD)
    assert trapped.write("DBGWCR0_EL1", WORD)
    assert trapped.read("DBGBCR0_EL1") == 0x3F_01E7
    assert trapped.read("DBGWCR0_EL1") == 0x1F1F_1FFF


def test_anything(trapped: Trapped) -> None:
    """Whatever a guest writes: after it left, the host finds what it had."""
    rng = random.Random(1)
    names = [*COMPARATORS, "MDSCR_EL1", "OSLAR_EL1", "DBGBVR15_EL1", "DBGWCR9_EL1"]
    for _ in range(300):
        trapped.write(rng.choice(names), rng.choice([0, 1, WORD, SS | MDE, rng.getrandbits(64)]))
        if trapped.vcpu.debug.armed == 0:
            assert in_cpu(trapped) == HOSTS
            assert trapped.jit.sysregs.MDSCR_EL1 & (SS | MDE) == 0
    if trapped.vcpu.debug.armed != 0:
        trapped.call(debug.unload)
    assert in_cpu(trapped) == HOSTS


def test_brk_goes_to_el2_for_who_watches_it(trapped: Trapped) -> None:
    """MDCR_EL2.TDE; not as long as the guest has debug exceptions of its own."""
    tde = 1 << 8
    trapped.vm.watched = Watch.BREAKPOINT
    trapped.write("MDSCR_EL1", 0)
    assert trapped.jit.sysregs.MDCR_EL2 & tde
    trapped.write("OSLAR_EL1", 0)
    trapped.write("MDSCR_EL1", MDE)
    assert trapped.jit.sysregs.MDCR_EL2 & tde == 0
    trapped.write("MDSCR_EL1", KDE)
    assert trapped.jit.sysregs.MDCR_EL2 & tde
    trapped.vm.watched = Watch.HVC
    trapped.write("MDSCR_EL1", 0)
    assert trapped.jit.sysregs.MDCR_EL2 & tde == 0
