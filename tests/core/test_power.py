# SPDX-License-Identifier: Apache-2.0
"""The host's SMC and PSCI calls against a firmware that pretends."""

from __future__ import annotations

import itertools

import pytest

from gz.arm64.psci import AffinityState, Psci, PsciStatus
from gz.arm64.smccc import Smccc, Trng
from gz.core import power
from gz.metal import Program
from gz.metal.jit import Jit
from gz.metal.values import address_of

RAM, RAM_SIZE = 0x4000_0000, 0x1000_0000
LOADED = 0x4020_0000
SECONDARY = 0xC0
MPIDRS = (0x0, 0x1, 0x100, 0x1_0000_0000)
WORD = (1 << 64) - 1
NOT_SUPPORTED = -1 & WORD


START = 0xC000_0000_0000


@pytest.fixture(scope="module")
def jit() -> Jit:
    externs = {"image_start": lambda: START, "secondary_start": lambda: START + SECONDARY}
    return Program(roots=[power.call]).jit(externs=externs)


class Firmware:
    """Records what reaches it; answers 0 or what `answers` says by function."""

    def __init__(self, jit: Jit) -> None:
        self.jit = jit
        jit.reset()
        machine = self.jit.storage("gz.core.platform.machine")
        machine.ram[0].base, machine.ram[0].size, machine.ram_count = RAM, RAM_SIZE, 1
        machine.image.base, machine.image.size = LOADED, 0x10_0000
        machine.cpu_count = len(MPIDRS)
        self.jit.storage("gz.core.mmu.tables").distance = START - LOADED
        self.cpus = self.jit.storage("gz.core.cpu.CPUS")
        for i, mpidr in enumerate(MPIDRS):
            self.cpus[i].index, self.cpus[i].mpidr = i, mpidr
            self.cpus[i].power = AffinityState.ON if i == 0 else AffinityState.OFF
        self.cpus[0].host.cpu = address_of(self.cpus[0])
        self.seen: list[tuple[int, ...]] = []
        self.answers: dict[int, int] = {}
        self.jit.on_smc(self._smc)

    def _smc(self, *x: int) -> tuple[int, ...]:
        self.seen.append(x)
        return (self.answers.get(x[0], 0), 0x11, 0x22, 0x33)

    def call(self, *x: int) -> int:
        context = self.cpus[0].host
        for i in range(31):
            context.x[i] = 0xAAAA_0000 + i
        for i, value in enumerate(x):
            context.x[i] = value & WORD
        self.jit.fn(power.call)(context)
        for i in range(4, 31):
            if i >= len(x):
                assert context.x[i] == 0xAAAA_0000 + i
        return context.x[0]


@pytest.fixture
def firmware(jit: Jit) -> Firmware:
    return Firmware(jit)


def test_cpu_on_enters_the_core(firmware: Firmware) -> None:
    assert firmware.call(Psci.CPU_ON_64, 0x100, RAM + 0x80000, 0x1234_5678_9ABC) == 0
    assert firmware.seen == [(Psci.CPU_ON_64, 0x100, LOADED + SECONDARY, 2, 0, 0, 0, 0)]
    cpu = firmware.cpus[2]
    assert (cpu.entry, cpu.entry_context, cpu.power) == (RAM + 0x80000, 0x1234_5678_9ABC, AffinityState.ON_PENDING)


def test_cpu_on_by_smc32_takes_low_halves(firmware: Firmware) -> None:
    assert firmware.call(Psci.CPU_ON, 0xFF_0000_0001, 0xDEAD_0000_0000 | RAM, 0xFFFF_FFFF_0000_0007) == 0
    assert (firmware.cpus[1].entry, firmware.cpus[1].entry_context) == (RAM, 7)


@pytest.mark.parametrize(
    "mpidr, entry, status",
    [
        (0x2, RAM, PsciStatus.INVALID_PARAMETERS),
        (0x8000_0001, RAM, PsciStatus.INVALID_PARAMETERS),  # a RES bit of MPIDR
        (0x1, RAM + 2, PsciStatus.INVALID_ADDRESS),
        (0x1, LOADED + SECONDARY, PsciStatus.INVALID_ADDRESS),
        (0x1, RAM - 4, PsciStatus.INVALID_ADDRESS),
        (0x1, RAM + RAM_SIZE - 2, PsciStatus.INVALID_ADDRESS),
        (0x1, WORD & ~3, PsciStatus.INVALID_ADDRESS),
        (0x0, RAM, PsciStatus.ALREADY_ON),
    ],
)
def test_cpu_on_refused(firmware: Firmware, mpidr: int, entry: int, status: int) -> None:
    assert firmware.call(Psci.CPU_ON_64, mpidr, entry, 0) == status & WORD
    assert firmware.seen == []


def test_cpu_on_twice(firmware: Firmware) -> None:
    firmware.call(Psci.CPU_ON_64, 1, RAM, 0)
    assert firmware.call(Psci.CPU_ON_64, 1, RAM + 4, 1) == PsciStatus.ON_PENDING & WORD
    firmware.cpus[1].power = AffinityState.ON
    assert firmware.call(Psci.CPU_ON_64, 1, RAM + 4, 1) == PsciStatus.ALREADY_ON & WORD
    assert len(firmware.seen) == 1 and firmware.cpus[1].entry == RAM


def test_cpu_on_that_firmware_refuses(firmware: Firmware) -> None:
    firmware.answers[Psci.CPU_ON_64] = PsciStatus.INTERNAL_FAILURE & WORD
    assert firmware.call(Psci.CPU_ON_64, 1, RAM, 0) == PsciStatus.INTERNAL_FAILURE & WORD
    assert firmware.cpus[1].power == AffinityState.OFF


def test_affinity_info(firmware: Firmware) -> None:
    firmware.answers[Psci.AFFINITY_INFO_64] = AffinityState.OFF
    for state in AffinityState:
        firmware.cpus[3].power = state
        firmware.seen.clear()
        assert firmware.call(Psci.AFFINITY_INFO_64, MPIDRS[3], 0) == state
        assert len(firmware.seen) == (state == AffinityState.OFF), "firmware knows when it is really off"
    firmware.answers[Psci.AFFINITY_INFO_64] = AffinityState.ON
    firmware.cpus[3].power = AffinityState.OFF
    assert firmware.call(Psci.AFFINITY_INFO_64, MPIDRS[3], 0) == AffinityState.ON
    assert firmware.call(Psci.AFFINITY_INFO_64, 0x77, 0) == PsciStatus.INVALID_PARAMETERS & WORD
    assert firmware.call(Psci.AFFINITY_INFO_64, 0, 1) == PsciStatus.INVALID_PARAMETERS & WORD


def test_cpu_off(firmware: Firmware) -> None:
    during: list[tuple[int, int]] = []
    firmware.jit.on_smc(lambda *x: during.append((x[0], firmware.cpus[0].power)) or PsciStatus.DENIED)
    assert firmware.call(Psci.CPU_OFF) == PsciStatus.DENIED & WORD
    assert during == [(Psci.CPU_OFF, AffinityState.OFF)]
    assert firmware.cpus[0].power == AffinityState.ON


@pytest.mark.parametrize("function", [Psci.CPU_SUSPEND, Psci.CPU_SUSPEND_64])
def test_suspend_comes_back_through_the_core(firmware: Firmware, function: int) -> None:
    assert firmware.call(function, 0x10000, RAM + 8, 0x55) == 0
    assert firmware.seen == [(Psci.CPU_SUSPEND_64, 0x10000, LOADED + SECONDARY, 0, 0, 0, 0, 0)]
    assert (firmware.cpus[0].entry, firmware.cpus[0].entry_context) == (RAM + 8, 0x55)
    assert firmware.call(function, 0x10000, LOADED, 0) == PsciStatus.INVALID_ADDRESS & WORD


@pytest.mark.parametrize("function", [Psci.SYSTEM_SUSPEND_64, Psci.CPU_DEFAULT_SUSPEND_64])
def test_system_suspend(firmware: Firmware, function: int) -> None:
    assert firmware.call(function, RAM + 8, 0x55) == 0
    assert firmware.seen == [(function, LOADED + SECONDARY, 0, 0, 0, 0, 0, 0)]
    assert firmware.call(function, 0, 0) == PsciStatus.INVALID_ADDRESS & WORD


FORWARDED = (
    Psci.VERSION,
    Psci.MIGRATE_INFO_TYPE,
    Psci.SYSTEM_OFF,
    Psci.SYSTEM_RESET,
    Psci.SYSTEM_RESET2_64,
    Smccc.VERSION,
    Smccc.ARCH_FEATURES,
    Smccc.ARCH_WORKAROUND_1,
    Smccc.ARCH_WORKAROUND_3,
    Trng.VERSION,
    Trng.RND64,
    0x8200_0001,  # SiP
    0xC300_1234,  # OEM
)
REFUSED = (
    Psci.MEM_PROTECT,
    Psci.CPU_FREEZE,
    0x8400_0020,  # SDEI
    0xC400_0021,
    0x8400_0063,  # FF-A
    0xC400_0066,
    0x8500_0020,  # standard hypervisor
    0x8600_FF01,  # vendor hypervisor
    0xB000_0000,  # trusted application
    0xB200_0000,  # trusted OS
    0x0000_0000,  # yielding
    0x3200_0001,
)


@pytest.mark.parametrize("function", FORWARDED, ids=hex)
def test_forwarded(firmware: Firmware, function: int) -> None:
    firmware.answers[function] = 0x77
    assert firmware.call(function, 1, 2, 3, 4, 5, 6, 7) == 0x77
    assert firmware.seen == [(function, 1, 2, 3, 4, 5, 6, 7)]
    assert [firmware.cpus[0].host.x[i] for i in range(1, 4)] == [0x11, 0x22, 0x33]


@pytest.mark.parametrize("function", REFUSED, ids=hex)
def test_refused(firmware: Firmware, function: int) -> None:
    assert firmware.call(function, 1, 2, 3) == NOT_SUPPORTED
    assert firmware.seen == []


def test_features(firmware: Firmware) -> None:
    firmware.answers[Psci.FEATURES] = 0
    for function in (Psci.CPU_ON_64, Psci.CPU_SUSPEND, Psci.SYSTEM_RESET, Psci.AFFINITY_INFO, Smccc.VERSION):
        assert firmware.call(Psci.FEATURES, function) == 0
    firmware.seen.clear()
    for function in (Psci.MEM_PROTECT, Psci.CPU_FREEZE, 0x8400_0063, 0xC400_0020, 0x8600_0000, Smccc.ARCH_FEATURES):
        assert firmware.call(Psci.FEATURES, function) == NOT_SUPPORTED
    assert firmware.seen == []


def test_every_number(firmware: Firmware) -> None:
    """Whatever the function: an answer, and firmware sees only entries of the core."""
    numbers = (0, 1, 2, 3, 7, 14, 15, 31, 32, 96)
    for owner, number, wide, fast in itertools.product(range(64), numbers, (0, 1), (0, 1)):
        firmware.seen.clear()
        firmware.call(fast << 31 | wide << 30 | owner << 24 | number, 0x1, RAM, RAM)
        firmware.cpus[1].power = AffinityState.OFF
        for x in firmware.seen:
            if x[0] in (Psci.CPU_ON, Psci.CPU_ON_64, Psci.CPU_SUSPEND_64):
                assert x[2] == LOADED + SECONDARY
            if x[0] in (Psci.SYSTEM_SUSPEND_64, Psci.CPU_DEFAULT_SUSPEND_64):
                assert x[1] == LOADED + SECONDARY
