# SPDX-License-Identifier: Apache-2.0
"""The driver's compiled part in this process: the core and Linux below it are scripts."""

from __future__ import annotations

import errno
import os
from array import array
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gz.abi.calls import Call, smc64
from gz.abi.exits import ExitReason
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE, HwState, RunPage
from gz.driver import call
from gz.driver.eventfds import watch
from gz.driver.interface import INTERRUPTED
from gz.driver.shared import ASLEEP, AWAKE, RUNG, WATCHES_MAX, Entry, Shared
from gz.metal.jit import Jit
from gz.metal.program import Program

DOORBELL = 0xFFFF_8000_1000
VCPU = 3 << 16 | 2
FREQUENCY = 62_500_000
FUTEX_PRIVATE = 128


@pytest.fixture(scope="module")
def jit() -> Jit:
    roots = [call.doorbell_call, call.doorbell_call3, call.doorbell_run, call.doorbell_wake]
    return Program(roots).jit()


class World:
    """One vCPU's pages, what RUN does, and the system calls that were made."""

    def __init__(self, jit: Jit) -> None:
        self.jit = jit
        self.pages = jit.buffer(2 * PAGE_SIZE)
        self.area = jit.buffer(Shared.size)
        self.run = RunPage.view(self.pages.memory, 0)
        self.state = HwState.view(self.pages.memory, HWSTATE_OFFSET)
        self.shared = Shared.view(self.area.memory, 0)
        self.script: list[Callable[[], int] | int] = []
        self.slept: list[tuple[int, int]] = []
        self.woken: list[int] = []
        self.yields = 0
        self.written: list[tuple[int, int]] = []
        self.while_asleep: Callable[[], int] = lambda: errno.ETIMEDOUT
        jit.sysregs.CNTFRQ_EL0 = FREQUENCY
        jit.on_doorbell(self.ring)
        jit.on_svc(self.system_call)

    def ring(self, page: int, *registers: int) -> tuple[int, int, int, int]:
        assert page == DOORBELL and registers == (smc64(Call.RUN), VCPU, 0, 0, 0, 0, 0, 0)
        step = self.script.pop(0)
        return 0, step if isinstance(step, int) else step(), 0, 0

    def system_call(self, number: int, *arguments: int) -> int:
        if number == call.WRITE:
            fd, address, count = arguments[:3]
            assert (address - self.area.address, count) == (Shared.offset("event"), 8)
            self.written.append((fd, self.shared.event))
            return 8
        if number == call.SCHED_YIELD:
            self.yields += 1
            return 0
        assert number == call.FUTEX
        word, operation, value, timeout = arguments[:4]
        index = next(i for i in range(8) if word == self.sleep_address(i))
        if operation == FUTEX_PRIVATE | 1:
            assert value == 1
            self.woken.append(index)
            return 1
        assert operation == FUTEX_PRIVATE | 0 and index == VCPU & 0xFFFF
        if self.shared.sleeps[index].state != value:
            return -errno.EAGAIN
        assert timeout == word + 8
        own = self.shared.sleeps[index].timeout
        self.slept.append((own.seconds, own.nanoseconds))
        return -self.while_asleep()

    def sleep_address(self, index: int) -> int:
        return self.area.address + Shared.offset("sleeps") + 24 * index

    def go(self) -> int:
        entry = self.jit.buffer(Entry.size)
        entry.memory.cast("Q")[:] = memoryview(array("Q", (DOORBELL, VCPU, self.pages.address, self.area.address)))
        return self.jit.raw("gz.driver.call.doorbell_run")(entry.address)

    def idle(self, ticks: int, migrate: int = 1) -> Callable[[], int]:
        def step() -> int:
            self.state.vtimer_delay, self.state.vtimer_migrate = ticks, migrate
            return ExitReason.IDLE

        return step

    def store(self, address: int, length: int, data: int, is_write: int = 1) -> Callable[[], int]:
        def step() -> int:
            record = self.run.mmio
            record.phys_addr, record.length, record.data, record.is_write = address, length, data, is_write
            return ExitReason.MMIO

        return step


@pytest.fixture
def world(jit: Jit) -> World:
    return World(jit)


def test_a_call_carries_eight_registers_and_brings_four(jit: Jit) -> None:
    seen: list[tuple[int, tuple[int, ...]]] = []

    def ring(page: int, *registers: int) -> tuple[int, ...]:
        seen.append((page, registers))
        return 1, 2, 3, 2**64 - 1

    jit.on_doorbell(ring)
    frame = jit.buffer(64)
    words = frame.memory.cast("Q")
    words[:8] = memoryview(b"".join(n.to_bytes(8, "little") for n in range(10, 18))).cast("Q")
    jit.raw("gz.driver.call.doorbell_call")(DOORBELL, frame.address)
    assert seen == [(DOORBELL, tuple(range(10, 18)))]
    assert list(words[:8]) == [1, 2, 3, 2**64 - 1, 14, 15, 16, 17]
    assert jit.fn(call.doorbell_call3)(DOORBELL, 5, 6, 7, 8) == 1
    assert seen[1] == (DOORBELL, (5, 6, 7, 8, 0, 0, 0, 0))


def test_interrupts_of_the_host_run_again(world: World) -> None:
    world.script = [ExitReason.IRQ, ExitReason.GZ, ExitReason.IRQ, ExitReason.SHUTDOWN]
    assert world.go() == ExitReason.SHUTDOWN and not world.script
    assert world.yields == 1, "a guest that spins lets others run"


def test_a_kick_ends_the_loop_once(world: World) -> None:
    def kicked() -> int:
        world.run.immediate_exit = 1
        return ExitReason.GZ

    world.script = [kicked, ExitReason.IRQ, ExitReason.SHUTDOWN]
    assert world.go() == INTERRUPTED and world.run.immediate_exit == 0
    assert world.go() == ExitReason.SHUTDOWN


def test_a_kick_does_not_hide_an_exit(world: World) -> None:
    world.run.immediate_exit = 1
    world.script = [world.store(0x900_0000, 4, 1), ExitReason.GZ]
    assert world.go() == ExitReason.MMIO
    assert world.go() == INTERRUPTED


@pytest.mark.parametrize(
    ("ticks", "expected"),
    [(1, (0, 16)), (FREQUENCY, (1, 0)), (30 * FREQUENCY - 1, (29, 999_999_984)), (62_500, (0, 1_000_000))],
)
def test_idle_sleeps_as_long_as_the_core_says(world: World, ticks: int, expected: tuple[int, int]) -> None:
    world.script = [world.idle(ticks), ExitReason.SHUTDOWN]
    assert world.go() == ExitReason.SHUTDOWN
    assert world.slept == [expected] and world.shared.sleeps[2].state == AWAKE


def test_idle_without_a_timer_does_not_sleep(world: World) -> None:
    world.script = [world.idle(100, migrate=0), world.idle(0), ExitReason.SHUTDOWN]
    world.go()
    assert world.slept == []


def test_a_ring_before_the_sleep_is_not_lost_and_counts_once(world: World) -> None:
    def rung() -> int:
        world.jit.fn(call.doorbell_wake)(world.shared)
        world.jit.fn(call.doorbell_wake)(world.shared)
        return world.idle(100)()

    world.script = [rung, world.idle(100), ExitReason.SHUTDOWN]
    world.go()
    assert len(world.slept) == 1 and world.woken == []


def test_a_ring_wakes_who_sleeps(world: World) -> None:
    def ring() -> int:
        assert world.shared.sleeps[2].state == ASLEEP
        world.jit.fn(call.doorbell_wake)(world.shared)
        return 0

    world.while_asleep = ring
    world.script = [world.idle(100), ExitReason.SHUTDOWN]
    world.go()
    assert world.woken == [2] and world.shared.sleeps[2].state == AWAKE


def test_an_ipi_wakes_the_others(world: World) -> None:
    for index in (0, 2, 5):
        world.shared.sleeps[index].state = ASLEEP
    world.script = [ExitReason.IPI, ExitReason.SHUTDOWN]
    world.go()
    assert world.woken == [0, 5]
    assert [world.shared.sleeps[index].state for index in range(8)] == [RUNG, RUNG, ASLEEP, *[RUNG] * 5]


def test_a_signal_ends_a_sleep(world: World) -> None:
    def signalled() -> int:
        world.run.immediate_exit = 1
        return errno.EINTR

    world.while_asleep = signalled
    world.script = [world.idle(100)]
    assert world.go() == INTERRUPTED


def test_watched_writes_do_not_come_out(world: World) -> None:
    watch(world.shared, 0xA00_0050, 0, 11, None)
    watch(world.shared, 0xA00_0250, 4, 12, 3)
    watch(world.shared, 0xA00_0250, 4, 13, 4)
    garbage = 0xFFFF_FFFF << 32
    world.script = [
        world.store(0xA00_0050, 2, 9),
        world.store(0xA00_0250, 4, garbage | 4),
        world.store(0xA00_0250, 4, garbage | 3),
        world.store(0xA00_0250, 4, 5),
    ]
    assert world.go() == ExitReason.MMIO and world.run.mmio.data == 5
    assert world.written == [(11, 1), (13, 1), (12, 1)]


@pytest.mark.parametrize(
    ("address", "length", "is_write"), [(0xA00_0054, 4, 1), (0xA00_0050, 2, 1), (0xA00_0050, 4, 0)]
)
def test_other_accesses_come_out(world: World, address: int, length: int, is_write: int) -> None:
    watch(world.shared, 0xA00_0050, 4, 11, None)
    world.script = [world.store(address, length, 0, is_write)]
    assert world.go() == ExitReason.MMIO and world.written == []


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.sampled_from([1, 2, 4, 8]))
def test_data_is_compared_in_its_length(jit: Jit, wanted: int, written: int, length: int) -> None:
    world = World(jit)
    watch(world.shared, 0x1000, length, 11, wanted)
    world.script = [world.store(0x1000, length, written), ExitReason.SHUTDOWN]
    same = (wanted ^ written) & ((1 << 8 * length) - 1) == 0
    assert world.go() == (ExitReason.SHUTDOWN if same else ExitReason.MMIO)
    assert bool(world.written) == same


def test_watches_do_not_overlap_or_overflow() -> None:
    shared = Shared.view(memoryview(bytearray(Shared.size)), 0)
    watch(shared, 0x1000, 4, 5, 1)
    watch(shared, 0x1000, 4, 5, 2)
    for size, data in ((4, 1), (4, None), (0, 1), (0, None)):
        with pytest.raises(ValueError, match="exists already"):
            watch(shared, 0x1000, size, 5, data)
    with pytest.raises(ValueError, match="3 bytes"):
        watch(shared, 0x2000, 3, 5, None)
    for index in range(WATCHES_MAX - 2):
        watch(shared, 0x3000 + index, 4, os.O_RDONLY, None)
    with pytest.raises(ValueError, match="at most 64"):
        watch(shared, 0x9000, 4, 5, None)
