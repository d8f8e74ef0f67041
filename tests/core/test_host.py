# SPDX-License-Identifier: Apache-2.0
"""What the host sees of memory and of its CPU, and what its traps do."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import walker
from el2 import CORE, FRAMES, GIB, LOW, MIB, PAGE, Machine

from gz.abi import doorbell
from gz.abi.calls import Call, smc32, smc64
from gz.arm64.syndrome import DataAbort, ExceptionClass, FaultStatus, syndrome
from gz.core import host
from gz.metal.values import address_of

IMAGE, IMAGE_SIZE = LOW + 2 * MIB, 0x12_3000
POOL, POOL_SIZE = CORE, 16 * MIB
DOORBELL = 0x4800_0000
LIMIT = 1 << 40
WORD = (1 << 64) - 1
NOT_SUPPORTED = -1 & WORD


@pytest.fixture(scope="module")
def shared() -> Machine:
    return Machine(host.create_stage2, host.hcr, host.cptr, host.mdcr, host.sync)


@pytest.fixture
def machine(shared: Machine) -> Machine:
    shared.reset()
    platform = shared.storage("gz.core.platform.machine")
    platform.image.base, platform.image.size = IMAGE, IMAGE_SIZE
    platform.pool.base, platform.pool.size = POOL, POOL_SIZE
    platform.doorbell = DOORBELL
    shared.fn(host.create_stage2)()
    return shared


def stage2(machine: Machine) -> tuple[int, int]:
    root = machine.storage("gz.core.host_memory.HOST").root
    vtcr = 1 << 31 | 1 << 6 | (64 - 40)
    return vtcr, root


def test_host_sees_all_but_the_core_and_the_doorbell(machine: Machine) -> None:
    vtcr, root = stage2(machine)
    hidden = [(IMAGE, IMAGE_SIZE), (POOL, POOL_SIZE), (DOORBELL, doorbell.DOORBELL_SIZE)]
    edges = {0, LIMIT - PAGE, 0x900_0000, 0x40_1000_0000, GIB, 3 * GIB}
    for base, size in hidden:
        edges |= {base - PAGE, base, base + size - PAGE, base + size, base + size // 2 & ~(PAGE - 1)}
    chance = random.Random(1)
    edges |= {chance.randrange(LIMIT) & ~(PAGE - 1) for _ in range(500)}
    for page in edges:
        found = walker.walk(machine.memory.read64, vtcr, root, page)
        if any(base <= page < base + size for base, size in hidden):
            assert found is None, hex(page)
        else:
            assert found is not None and found.pa == page, hex(page)
            assert found.attributes >> 2 & 0xF == 0xF and found.attributes >> 6 & 3 == 3


def test_host_is_mapped_by_the_largest_blocks(machine: Machine) -> None:
    vtcr, root = stage2(machine)
    leaves = list(walker.leaves(machine.memory.read64, vtcr, root))
    assert sum(size for _, _, size, _ in leaves) == LIMIT - IMAGE_SIZE - POOL_SIZE - doorbell.DOORBELL_SIZE
    assert all(ipa == pa for ipa, pa, _, _ in leaves)
    assert sum(size == GIB for _, _, size, _ in leaves) == LIMIT // GIB - 1
    assert machine.storage("gz.core.host_memory.HOST").frames <= 6


FEATURES: dict[str, tuple[dict[str, int], int, int]] = {
    "nothing": ({}, 0, 0),
    "pointer authentication": ({"ID_AA64ISAR1_EL1": 1 << 4}, 3 << 40, 0),
    "its other algorithms": ({"ID_AA64ISAR2_EL1": 1 << 12}, 3 << 40, 0),
    "memory tagging": ({"ID_AA64PFR1_EL1": 2 << 8}, 1 << 56, 0),
    "SCXTNUM": ({"ID_AA64PFR0_EL1": 2 << 56}, 1 << 53, 0),
    "SVE": ({"ID_AA64PFR0_EL1": 1 << 32}, 0, 1 << 8),
    "SME": ({"ID_AA64PFR1_EL1": 1 << 24}, 0, 1 << 12),
}


@pytest.mark.parametrize("registers, granted, untrapped", FEATURES.values(), ids=FEATURES)
def test_what_the_id_registers_show_the_host_has(
    machine: Machine, registers: dict[str, int], granted: int, untrapped: int
) -> None:
    for name, value in registers.items():
        setattr(machine.jit.sysregs, name, value)
    base = 1 << 0 | 1 << 1 | 1 << 19 | 1 << 31  # VM, SWIO, TSC, RW; no interrupt is routed to EL2
    assert machine.fn(host.hcr)() == base | granted
    assert machine.fn(host.cptr)() == 0x33FF & ~untrapped


def test_all_counters_are_the_hosts(machine: Machine) -> None:
    assert machine.fn(host.mdcr)() == 0
    machine.jit.sysregs.ID_AA64DFR0_EL1 = 1 << 8 | 1 << 32 | 1 << 44
    machine.jit.sysregs.PMCR_EL0 = 6 << 11
    assert machine.fn(host.mdcr)() == 6 | 3 << 12 | 3 << 24


def test_nothing_counts_at_el2(machine: Machine) -> None:
    """As far as the CPU can say so; 15 is a PMU of another kind."""
    machine.jit.sysregs.PMCR_EL0 = 6 << 11
    for version, expected in ((1, 6), (4, 6 | 1 << 17), (5, 6 | 1 << 17), (6, 6 | 1 << 17 | 1 << 23), (15, 0)):
        machine.jit.sysregs.ID_AA64DFR0_EL1 = version << 8
        assert machine.fn(host.mdcr)() == expected


class Trap:
    """An exception from the host at EL1h, or at EL0."""

    VBAR = 0xFFFF_8000_0008_0000

    def __init__(
        self, machine: Machine, esr: int, *, far: int = 0, ipa: int = 0, x: Sequence[int] = (), el: int = 1
    ) -> None:
        r = self.registers = machine.jit.sysregs
        r.ESR_EL2, r.FAR_EL2, r.HPFAR_EL2 = esr, far, ipa >> 12 << 4
        r.ELR_EL2, r.SPSR_EL2, r.VBAR_EL1 = 0x1000, 0x2000_03C5 if el else 0x2000_0000, self.VBAR
        r.SCTLR_EL1 = 0x30D0_0800
        cpu = machine.storage("gz.core.cpu.CPUS")[0]
        self.context = cpu.host
        self.context.cpu = address_of(cpu)
        cpu.kick_ready = 1  # no redistributor is there
        for i in range(31):
            self.context.x[i] = x[i] if i < len(x) else 0x5500 + i
        self.before = [self.context.x[i] for i in range(31)]
        machine.fn(host.sync)(self.context)

    def aborted(self, offset: int, esr: int) -> None:
        r = self.registers
        assert [self.context.x[i] for i in range(31)] == self.before
        assert (self.VBAR + offset, 0x1000) == (r.ELR_EL2, r.ELR_EL1)
        assert esr == r.ESR_EL1
        assert r.SPSR_EL2 & 0x3FF == 0x3C5


STORE = int(DataAbort(ISV=1, SAS=3, SRT=2, SF=1, WnR=1, DFSC=FaultStatus.TRANSLATION + 3))
LOAD = int(DataAbort(ISV=1, SAS=3, SRT=2, SF=1, DFSC=FaultStatus.TRANSLATION + 3))
PAIR = int(DataAbort(WnR=1, DFSC=FaultStatus.TRANSLATION + 3))
EXTERNAL = 0x10


@pytest.mark.parametrize("iss", [STORE, LOAD, PAIR])
@pytest.mark.parametrize("ipa", [IMAGE, POOL + 0x5000, FRAMES])
@pytest.mark.parametrize("el, offset", [(1, 0x200), (0, 0x400)])
def test_access_to_the_core_is_an_external_abort(machine: Machine, iss: int, ipa: int, el: int, offset: int) -> None:
    trap = Trap(machine, syndrome(ExceptionClass.DATA_ABORT_LOWER, iss), far=0xABC0, ipa=ipa, el=el)
    written = iss & 1 << 6
    trap.aborted(offset, (0x24 + el) << 26 | 1 << 25 | written | EXTERNAL)
    assert trap.registers.FAR_EL1 == 0xABC0


@pytest.mark.parametrize("ec", [ExceptionClass.DATA_ABORT_LOWER, ExceptionClass.INSTRUCTION_ABORT_LOWER])
def test_a_fault_between_break_and_make_is_nothing(machine: Machine, ec: ExceptionClass) -> None:
    """Looked at again it is mapped: the access is made again, and nothing is injected."""
    trap = Trap(machine, syndrome(ec, 7), far=0xABC0, ipa=LOW + PAGE, el=0)
    assert trap.registers.ELR_EL2 == 0x1000


def test_fetch_from_the_core(machine: Machine) -> None:
    trap = Trap(machine, syndrome(ExceptionClass.INSTRUCTION_ABORT_LOWER, 7), far=0xABC0, ipa=IMAGE)
    trap.aborted(0x200, 0x21 << 26 | 1 << 25 | EXTERNAL)


def test_doorbell(machine: Machine) -> None:
    call = (smc64(Call.PROBE), 16, 0, 0)
    trap = Trap(machine, syndrome(ExceptionClass.DATA_ABORT_LOWER, STORE), far=0x7000, ipa=DOORBELL, x=call, el=0)
    assert trap.context.x[0] == 0
    assert trap.registers.ELR_EL2 == 0x1004, "the store is done"


@pytest.mark.parametrize("iss", [LOAD, PAIR, STORE & ~(3 << 22), STORE | 1 << 7])
def test_what_does_not_ring(machine: Machine, iss: int) -> None:
    """Loads, stores without a syndrome, bytes, table walks."""
    call = (smc64(Call.PROBE), 16, 0, 0)
    trap = Trap(machine, syndrome(ExceptionClass.DATA_ABORT_LOWER, iss), far=0x7000, ipa=DOORBELL, x=call, el=0)
    assert trap.registers.ELR_EL2 == Trap.VBAR + 0x400


def test_other_words_of_the_page(machine: Machine) -> None:
    trap = Trap(machine, syndrome(ExceptionClass.DATA_ABORT_LOWER, STORE), far=0x7008, ipa=DOORBELL, el=0)
    trap.aborted(0x400, 0x24 << 26 | 1 << 25 | 1 << 6 | EXTERNAL)


@pytest.mark.parametrize("function", [smc32(Call.PROBE), smc64(Call.PROBE)])
def test_hypercall(machine: Machine, function: int) -> None:
    trap = Trap(machine, syndrome(ExceptionClass.HVC64), x=(function, 16, 0, 0))
    assert trap.context.x[0] == 0
    assert trap.registers.ELR_EL2 == 0x1000, "ELR is behind an HVC already"


def test_psci_by_either_conduit(machine: Machine) -> None:
    seen: list[int] = []
    machine.jit.on_smc(lambda *x: seen.append(x[0]) or 0x1_0001)
    for ec, pc in ((ExceptionClass.HVC64, 0x1000), (ExceptionClass.SMC64, 0x1004)):
        trap = Trap(machine, syndrome(ec), x=(0x8400_0000,))
        assert trap.context.x[0] == 0x1_0001 and pc == trap.registers.ELR_EL2
    assert seen == [0x8400_0000] * 2


@pytest.mark.parametrize("ec, pc", [(ExceptionClass.HVC64, 0x1000), (ExceptionClass.SMC64, 0x1004)])
def test_immediates_are_no_calls(machine: Machine, ec: ExceptionClass, pc: int) -> None:
    trap = Trap(machine, syndrome(ec, 1), x=(0x8400_0008,))
    assert trap.context.x[0] == NOT_SUPPORTED and pc == trap.registers.ELR_EL2


@pytest.mark.parametrize("ec", sorted({0, 3, 7, 9, 0x18, 0x19, 0x1A, 0x1D, 0x2F, 0x3C, 0x3F}))
def test_anything_else_is_undefined(machine: Machine, ec: int) -> None:
    Trap(machine, ec << 26 | 1 << 25).aborted(0x200, 1 << 25)


def test_random_syndromes(machine: Machine) -> None:
    """No trap of the host stops the core, and none moves the PC anywhere but on or to the vectors."""
    chance = random.Random(2)
    machine.jit.on_smc(lambda *x: 0)
    for _ in range(3000):
        esr = chance.choice((0x24, 0x20, 0x16, 0x17, chance.getrandbits(6))) << 26 | chance.getrandbits(25)
        ipa = chance.choice((DOORBELL, IMAGE, chance.getrandbits(40)))
        x = [chance.choice((chance.getrandbits(64), chance.getrandbits(32), smc64(Call.PROBE))) for _ in range(31)]
        trap = Trap(machine, esr, far=chance.getrandbits(64), ipa=ipa, x=x, el=chance.randrange(2))
        assert trap.registers.ELR_EL2 in (0x1000, 0x1004, Trap.VBAR + 0x200, Trap.VBAR + 0x400)
