# SPDX-License-Identifier: Apache-2.0
"""What guests call: PSCI, SMCCC, random numbers, the vendor's services; and everything that isn't one."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from el2 import LOW, Machine
from test_vgic import address

import gz.core.guest_calls as guest_calls
import gz.core.speculation as speculation
import gz.core.stage2 as stage2
from gz.abi.exits import ExitReason, SystemEvent
from gz.abi.run import RunPage
from gz.arm64.psci import Psci
from gz.arm64.smccc import Smccc, Trng
from gz.core.context import Context
from gz.core.memory import RAM_WINDOW
from gz.core.outcome import Outcome
from gz.core.vcpu import Power, Vcpu
from gz.core.vm import Vm
from gz.metal.buffer import Buffer

WORD = (1 << 64) - 1
W_NOT_SUPPORTED, NOT_SUPPORTED = 0xFFFF_FFFF, WORD
RUN_PAGE = LOW + 0x10_0000
IDLE_CAPABILITY = 4
KVM_UID = [0xB66FB428, 0xE911C52E, 0x564BCAA9, 0x743A004D]


class Caller:
    def __init__(self) -> None:
        self.machine = Machine(guest_calls.call, stage2.create, speculation.survey)
        self.jit = self.machine.jit
        self.vm_frame = self.jit.buffer(Vm.size)
        self.frames: list[Buffer] = [self.jit.buffer(4096) for _ in range(8)]

    def start(self, count: int = 3) -> None:
        self.machine.reset()
        ctypes.memset(self.vm_frame.address, 0, Vm.size)
        self.vm: Any = Vm.view(self.vm_frame.memory)
        slot = self.vm.slots[0]
        slot.base, slot.page_count = 0x8000_0000, 16
        cpu = self.jit.storage("gz.core.cpu.CPUS")[0]
        self.vcpus: list[Any] = []
        for i in range(count):
            ctypes.memset(self.frames[i].address, 0, 4096)
            vcpu: Any = Vcpu.view(self.frames[i].memory)
            vcpu.vm, vcpu.index = self.vm_frame.address, i
            vcpu.context.cpu = address(cpu)
            vcpu.power = Power.OFF if i else Power.ON
            vcpu.run_page = RUN_PAGE + 0x2000 * i
            self.vm.vcpus[i] = self.frames[i].address
            self.vcpus.append(vcpu)
        self.vm.smc64 = 1
        assert self.jit.fn(stage2.create)(self.vm.stage2, 1)
        self.jit.sysregs.ICH_VTR_EL2 = 3 | 4 << 26

    def call(self, *arguments: int, vcpu: int = 0) -> int:
        x = (ctypes.c_uint64 * 31).from_address(self.frames[vcpu].address + Context.offset("x"))
        x[:8] = [arguments[i] if i < len(arguments) else 0 for i in range(8)]
        self.outcome = self.jit.fn(guest_calls.call)(self.frames[vcpu].address)
        self.x = list(x)
        return x[0]

    def page(self, vcpu: int = 0) -> RunPage:
        at = RAM_WINDOW + RUN_PAGE + 0x2000 * vcpu
        return RunPage.view((ctypes.c_ubyte * 4096).from_address(at))


@pytest.fixture(scope="module")
def caller() -> Caller:
    return Caller()


@pytest.fixture
def guest(caller: Caller) -> Iterator[Caller]:
    caller.start()
    yield caller


def test_versions(guest: Caller) -> None:
    assert guest.call(Psci.VERSION) == 0x1_0001
    assert guest.call(Smccc.VERSION) == 0x1_0002
    assert guest.outcome == Outcome.RESUME
    assert guest.call(Psci.MIGRATE_INFO_TYPE) == 2


def test_linux_discovery_order(guest: Caller) -> None:
    """PSCI_FEATURES(SMCCC_VERSION), SMCCC_VERSION, vendor UID, vendor features."""
    assert guest.call(Psci.FEATURES, Smccc.VERSION) == 0
    assert guest.call(Smccc.VERSION) >= 0x1_0001
    guest.call(0x8600_FF01)
    assert guest.x[:4] == KVM_UID
    guest.call(0x8600_0000)
    assert guest.x[:4] == [1 << 0 | 1 << 1 | 1 << 2 | 1 << 9, 0, 0, 0]


def test_psci_features(guest: Caller) -> None:
    offered = {
        *(0x8400_0000 + n for n in (0, 1, 2, 3, 4, 6, 8, 9, 0xA, 0x12)),
        *(0xC400_0000 + n for n in (1, 3, 4, 0x12)),
        0x8000_0000,
    }
    for base in (0x8400_0000, 0xC400_0000, 0x8000_0000):
        for number in (*range(0x40), 0x50, 0x53):
            expected = 0 if base + number in offered else W_NOT_SUPPORTED
            assert guest.call(Psci.FEATURES, base + number) == expected, hex(base + number)


@pytest.mark.parametrize("function", [Psci.CPU_ON, Psci.CPU_ON_64])
def test_cpu_on(guest: Caller, function: int) -> None:
    wide = bool(function >> 30 & 1)
    entry, context = 0x8000_1000, 0x1234_5678_9ABC if wide else 0x5678_9ABC
    assert guest.call(function, 1, entry, 0x1234_5678_9ABC) == 0
    target = guest.vcpus[1]
    assert (target.power, target.entry, target.entry_context) == (Power.ON_PENDING, entry, context)
    mask = WORD if wide else 0xFFFF_FFFF
    assert guest.call(function, 1, entry, 0) == -4 & mask, "no ON_PENDING: kvm-unit-tests' psci fails with it"
    assert target.entry_context == context
    target.power = Power.ON
    assert guest.call(function, 1, entry, 0) == -4 & mask
    assert guest.call(function, 0, entry, 0) == -4 & mask
    for nobody in (3, 8, 0x100, 0x8000_0001):
        assert guest.call(function, nobody, entry, 0) == -2 & mask
    assert guest.call(function, 2, 0x7FFF_F000, 0) == -9 & mask
    assert guest.call(function, 2, 0x8001_0000, 0) == -9 & mask
    assert guest.call(function, 2, entry + 2, 0) == -9 & mask
    assert guest.vcpus[2].power == Power.OFF


def test_upper_halves_count_only_in_64_bit_calls(guest: Caller) -> None:
    high = 0xABCD << 32
    assert guest.call(Psci.CPU_ON, high | 1, high | 0x8000_0000, 0) == 0
    assert guest.call(Psci.CPU_ON_64, high | 2, 0x8000_0000, 0) == -2 & WORD
    assert guest.call(high | Psci.VERSION) == 0x1_0001


def test_cpu_on_wakes_the_host_thread(guest: Caller) -> None:
    guest.call(Psci.CPU_ON_64, 1, 0x8000_0000)
    assert guest.vcpus[0].gic.announce == 0
    guest.vm.capabilities = IDLE_CAPABILITY
    guest.call(Psci.CPU_ON_64, 2, 0x8000_0000)
    assert guest.vcpus[0].gic.announce == guest.vcpus[0].gic.dirty == 1


def test_cpu_off(guest: Caller) -> None:
    guest.vcpus[1].power = Power.ON
    guest.call(Psci.CPU_OFF, vcpu=1)
    assert (guest.outcome, guest.vcpus[1].power) == (Outcome.LEAVE, Power.OFF)
    assert guest.vcpus[1].exit == ExitReason.GZ
    guest.vm.capabilities = IDLE_CAPABILITY
    guest.vcpus[1].power = Power.ON
    guest.call(Psci.CPU_OFF, vcpu=1)
    assert guest.vcpus[1].exit == ExitReason.IDLE


def test_affinity_info(guest: Caller) -> None:
    for function, mask in ((Psci.AFFINITY_INFO, 0xFFFF_FFFF), (Psci.AFFINITY_INFO_64, WORD)):
        assert [guest.call(function, i) for i in range(3)] == [0, 1, 1]
        assert guest.call(function, 3) == guest.call(function, 0x100) == -2 & mask
        assert guest.call(function, 0x105, 1) == guest.call(function, 1, 4) == -2 & mask
        assert guest.call(function, 0xFF, 1) == guest.call(function, 1, 3) == 0
        guest.vcpus[1].power = Power.ON_PENDING
        guest.vcpus[2].power = Power.CLAIMED
        assert guest.call(function, 1) == guest.call(function, 2) == 0
        guest.vcpus[1].power = guest.vcpus[2].power = Power.OFF
    assert guest.call(Psci.AFFINITY_INFO_64, 1 << 32, 3) == -2 & WORD
    assert guest.call(Psci.AFFINITY_INFO_64, 1 << 31) == -2 & WORD


def test_cpu_suspend_is_a_wait(guest: Caller) -> None:
    guest.vm.capabilities = IDLE_CAPABILITY
    assert guest.call(Psci.CPU_SUSPEND_64, 0, 0x8000_0000, 5) == 0
    assert (guest.outcome, guest.vcpus[0].exit) == (Outcome.LEAVE, ExitReason.IDLE)
    assert guest.vcpus[0].idle == 1


@pytest.mark.parametrize(
    "function, event",
    [
        (Psci.SYSTEM_OFF, SystemEvent.SHUTDOWN),
        (Psci.SYSTEM_RESET, SystemEvent.RESET),
        (Psci.SYSTEM_RESET2, SystemEvent.RESET),
        (Psci.SYSTEM_RESET2_64, SystemEvent.RESET),
    ],
)
def test_the_end_is_told_once(guest: Caller, function: int, event: SystemEvent) -> None:
    guest.vcpus[1].power = Power.ON
    guest.call(function, vcpu=1)
    assert (guest.outcome, guest.vcpus[1].exit) == (Outcome.LEAVE, ExitReason.SYSTEM_EVENT)
    assert guest.page(1).system_event.type == event
    guest.call(Psci.SYSTEM_OFF)
    assert (guest.outcome, guest.vcpus[0].exit) == (Outcome.LEAVE, ExitReason.GZ)
    assert [vcpu.power for vcpu in guest.vcpus] == [Power.OFF] * 3


def test_vendor_reset_types_are_not_ours(guest: Caller) -> None:
    assert guest.call(Psci.SYSTEM_RESET2, 0x8000_0000) == -2 & 0xFFFF_FFFF
    assert guest.outcome == Outcome.RESUME


WORKAROUNDS = (Smccc.ARCH_WORKAROUND_1, Smccc.ARCH_WORKAROUND_2, Smccc.ARCH_WORKAROUND_3)


@pytest.mark.parametrize(
    "csv2, ssbs, ecbhb, expected",
    [
        (0, 0, 0, [W_NOT_SUPPORTED] * 3),
        (1, 2, 0, [1, 1, W_NOT_SUPPORTED]),
        (3, 0, 0, [1, W_NOT_SUPPORTED, 1]),
        (0, 1, 1, [W_NOT_SUPPORTED, 1, 1]),
    ],
)
def test_workarounds_by_features(guest: Caller, csv2: int, ssbs: int, ecbhb: int, expected: list[int]) -> None:
    guest.jit.sysregs.ID_AA64PFR0_EL1 = csv2 << 56
    guest.jit.sysregs.ID_AA64PFR1_EL1 = ssbs << 4
    guest.jit.sysregs.ID_AA64MMFR1_EL1 = ecbhb << 60
    guest.jit.fn(speculation.survey)()
    assert [guest.call(Smccc.ARCH_FEATURES, call) for call in WORKAROUNDS] == expected
    assert [guest.call(call) for call in WORKAROUNDS] == [0 if answer == 1 else answer for answer in expected]
    assert guest.call(Smccc.ARCH_FEATURES, Smccc.ARCH_FEATURES) == 0
    assert guest.call(Smccc.ARCH_FEATURES, Smccc.ARCH_SOC_ID) == W_NOT_SUPPORTED


def midr(part: int, implementer: int = 0x41) -> int:
    return implementer << 24 | 0xF << 16 | part << 4


@pytest.mark.parametrize(
    "cpus, vulnerable",
    [
        ([midr(0xD03)], 0),  # cortex-a53
        ([midr(0xD05)], 0),  # cortex-a55
        ([midr(0xD07)], 0b111),  # cortex-a57
        ([midr(0xD08)], 0b111),  # cortex-a72
        ([midr(0xD0B)], 0b111),  # cortex-a76 of the first kind, without CSV2
        ([midr(0xD46)], 0b011),  # cortex-a510
        ([midr(0xD03, 0x51)], 0b111),  # another maker's part with the same number
        ([midr(0xD03), midr(0xD08)], 0b111),  # big and little
        ([midr(0xD08), midr(0xD03)], 0b111),
    ],
)
def test_workarounds_by_part(guest: Caller, cpus: list[int], vulnerable: int) -> None:
    """What one of the CPUs needs all vCPUs are told: with firmware that has it, and with firmware that has not."""
    for cpu in cpus:
        guest.jit.sysregs.MIDR_EL1 = cpu
        guest.jit.fn(speculation.survey)()
    for bit, call in enumerate(WORKAROUNDS):
        affected = vulnerable >> bit & 1
        assert guest.call(Smccc.ARCH_FEATURES, call) == (W_NOT_SUPPORTED if affected else 1)
        assert guest.call(call) == (W_NOT_SUPPORTED if affected else 0)


def firmware(version: int, answers: dict[int, int], seen: list[tuple[int, int]]) -> Callable[..., int]:
    """Of SMCCC `version`; ARCH_FEATURES gives `answers`."""

    def call(function: int, argument: int, *rest: int) -> int:
        seen.append((function, argument))
        if function == Psci.FEATURES and argument == Smccc.VERSION:
            return 0 if version else WORD
        if function == Smccc.VERSION:
            return version
        if function == Smccc.ARCH_FEATURES:
            return answers.get(argument, WORD)
        return 0

    return call


@pytest.mark.parametrize(
    "version, answers, expected",
    [
        (0x1_0001, dict.fromkeys(WORKAROUNDS, 0), [0, W_NOT_SUPPORTED, 0]),  # number 2 would be the host's, too
        (0x1_0001, dict.fromkeys(WORKAROUNDS, 1), [1, 1, 1]),
        (0x1_0002, {Smccc.ARCH_WORKAROUND_2: -2 & WORD}, [W_NOT_SUPPORTED, 1, W_NOT_SUPPORTED]),
        (0x1_0000, dict.fromkeys(WORKAROUNDS, 0), [W_NOT_SUPPORTED] * 3),
        (0, dict.fromkeys(WORKAROUNDS, 0), [W_NOT_SUPPORTED] * 3),
    ],
)
def test_workarounds_of_firmware(guest: Caller, version: int, answers: dict[int, int], expected: list[int]) -> None:
    """A guest's call reaches the firmware as the core's own, without a guest's register, and only if it is needed."""
    seen: list[tuple[int, int]] = []
    guest.jit.sysregs.MIDR_EL1 = midr(0xD08)
    guest.jit.storage("gz.core.platform.machine").psci_smc = 1
    guest.jit.on_smc(firmware(version, answers, seen))
    guest.jit.fn(speculation.survey)()
    assert [guest.call(Smccc.ARCH_FEATURES, call) for call in WORKAROUNDS] == expected
    seen.clear()
    for call in WORKAROUNDS:
        guest.call(call, WORD)
    assert seen == [(call, 0) for call, answer in zip(WORKAROUNDS, expected, strict=True) if answer == 0]
    guest.jit.on_smc(None)


def test_nothing_else_of_a_guest_reaches_firmware(guest: Caller) -> None:
    """Every service of every owner, known numbers and random ones, with arguments that firmware would act on."""
    seen: list[tuple[int, int]] = []
    guest.jit.storage("gz.core.platform.machine").psci_smc = 1
    guest.jit.on_smc(firmware(0x1_0002, {}, seen))
    guest.jit.fn(speculation.survey)()
    seen.clear()
    rng = random.Random(5)
    numbers = [*range(0x24), *range(0x50, 0x54), 0x7FFF, 0x8000, 0x3FFF]
    for owner in (*range(7), 48, 50, 59, 63):
        for base in (owner << 24 | 0x8000_0000, owner << 24 | 0xC000_0000, owner << 24):
            for number in (*numbers, rng.randrange(1 << 16)):
                guest.call(base | number, rng.choice((0, 1, 2)), 0x8000_0000, rng.getrandbits(64))
                guest.vm.reset_pending = 0
                for vcpu in guest.vcpus[1:]:
                    vcpu.power = Power.OFF
    guest.jit.on_smc(None)
    assert seen == []


def test_ptp_is_for_drivers_that_answer_it(guest: Caller) -> None:
    guest.call(0x8600_0001, 0)
    assert (guest.outcome, guest.vcpus[0].exit) == (Outcome.LEAVE, ExitReason.HYPERCALL)
    assert list(guest.page().hypercall.args)[:2] == [0x8600_0001, 0]
    guest.vm.smc64 = 0
    assert guest.call(0x8600_0001, 0) == W_NOT_SUPPORTED
    guest.call(0x8600_0000)
    assert guest.x[0] == 1 << 0 | 1 << 2 | 1 << 9


def test_memory_info(guest: Caller) -> None:
    assert guest.call(0xC600_0002) == 4096
    assert guest.x[1:4] == [0, 0, 0]
    for n in range(3):
        assert guest.call(0xC600_0002, *[0] * n, 1) == -3 & WORD


def test_random_numbers(guest: Caller) -> None:
    assert guest.call(Trng.VERSION) == W_NOT_SUPPORTED
    assert guest.call(Trng.RND64, 64) == NOT_SUPPORTED
    guest.jit.sysregs.ID_AA64ISAR0_EL1 = 1 << 60
    assert guest.call(Trng.VERSION) == 0x1_0000
    assert guest.call(Trng.FEATURES, Trng.RND64) == 0
    assert guest.call(Trng.FEATURES, Psci.VERSION) == W_NOT_SUPPORTED
    guest.call(Trng.GET_UUID)
    assert all(guest.x[:4])
    source = random.Random(1)
    guest.jit.on_read("RNDR", lambda: source.getrandbits(64) | 1)
    for function, width in ((Trng.RND32, 32), (Trng.RND64, 64)):
        for bits in (0, 3 * width + 1, WORD):
            assert guest.call(function, bits) == -2 & (0xFFFF_FFFF if width == 32 else WORD)
        seen = 0
        for bits in range(1, 3 * width + 1):
            assert guest.call(function, bits) == 0
            x1, x2, x3 = guest.x[1:4]
            assert x1 >> width == x2 >> width == x3 >> width == 0
            value = x1 << 2 * width | x2 << width | x3
            assert value >> bits == 0
            seen |= value
        assert seen >> 3 * width - 8
    guest.jit.on_read("RNDR", lambda: 0)
    assert guest.call(Trng.RND64, 1) == -3 & WORD
    guest.jit.on_read("RNDR", None)


def test_other_immediates_are_no_calls(guest: Caller) -> None:
    guest.jit.sysregs.ESR_EL2 = 0x16 << 26 | 1
    assert guest.call(Psci.VERSION) == NOT_SUPPORTED
    guest.jit.sysregs.ESR_EL2 = 0


def test_nothing_else_is_known(guest: Caller) -> None:
    """Every owner, both widths, fast and yielding: -1 in the width of the call, registers untouched, no exit."""
    rng = random.Random(2)
    known = set(guest_calls.IDS)
    for _ in range(3000):
        function = rng.choice((0x8400_0000, 0xC400_0000, 0x8600_0000, 0x8000_0000, 0xFB00_1000, 0xBB00_1000))
        function = function | rng.randrange(0x60) if rng.random() < 0.6 else rng.getrandbits(32)
        if function in known:
            continue
        arguments = [rng.getrandbits(64) for _ in range(7)]
        answer = guest.call(rng.getrandbits(32) << 32 | function, *arguments)
        assert answer == (NOT_SUPPORTED if function >> 30 & 1 else W_NOT_SUPPORTED), hex(function)
        assert guest.outcome == Outcome.RESUME and guest.x[1:8] == arguments


def test_known_calls_with_wild_arguments(guest: Caller) -> None:
    """H10."""
    rng = random.Random(3)
    leaving = 0
    for _ in range(3000):
        guest.call(
            rng.choice(list(guest_calls.IDS)), *(rng.choice((0, 1, WORD, rng.getrandbits(64))) for _ in range(7))
        )
        leaving += guest.outcome == Outcome.LEAVE
        assert guest.outcome in (Outcome.RESUME, Outcome.LEAVE)
        assert all(vcpu.power in (0, 1, 2) for vcpu in guest.vcpus)
    assert leaving
