# SPDX-License-Identifier: Apache-2.0
"""The ring of records: what is written is what the decoder reads, the oldest go first, a panic prints the last."""

from __future__ import annotations

import ctypes
import random

import pytest

import gz.core.vm  # noqa: F401 - what a vCPU refers to
from gz.abi.calls import Call, smc64
from gz.abi.exits import ExitReason
from gz.arm64.syndrome import ExceptionClass, syndrome
from gz.cli.trace import FIELDS, SIZE, STORAGE, entries
from gz.core import trace
from gz.core.trace import RECORD_COUNT, Event
from gz.metal import Program
from gz.metal.jit import Jit
from gz.metal.values import address_of


@pytest.fixture(scope="module")
def program() -> Jit:
    return Program([trace.record_here, trace.record_exception, trace.show]).jit()


@pytest.fixture
def jit(program: Jit) -> Jit:
    """The host below on CPU 1."""
    program.reset()
    cpu = program.storage(STORAGE)[1]
    cpu.host.cpu = address_of(cpu)
    program.sysregs.TPIDR_EL2 = address_of(cpu.host)
    return program


def memory(jit: Jit) -> bytes:
    return ctypes.string_at(address_of(jit.storage(STORAGE)[0]), SIZE)


def test_records_come_back_in_the_order_of_time(jit: Jit) -> None:
    chance = random.Random(1)
    written: list[tuple[int, Event, int, int, int, int]] = []
    for number in range(RECORD_COUNT // 2):
        jit.sysregs.CNTPCT_EL0 = number
        vm, vcpu = chance.randrange(65), chance.randrange(64)
        row = chance.choice(list(Event)), vm << 16 | vcpu, chance.getrandbits(64), chance.getrandbits(64)
        jit.fn(trace.record_here)(*row)
        written.append((number, row[0], vm, vcpu, *row[2:]))
    found = entries(memory(jit))
    assert {entry.cpu for entry in found} == {1}
    assert [(e.time, e.event, e.vm, e.vcpu, e.a, e.b) for e in found] == written


def test_the_oldest_go_first(jit: Jit) -> None:
    for number in range(3 * RECORD_COUNT + 5):
        jit.fn(trace.record_here)(Event.MAP, 0, number, 0)
    # The place of one more may be half written.
    assert [entry.a for entry in entries(memory(jit))] == [*range(2 * RECORD_COUNT + 6, 3 * RECORD_COUNT + 5)]


def test_what_is_no_record_is_left_out(jit: Jit) -> None:
    chance = random.Random(2)
    for _ in range(50):
        entries(chance.randbytes(SIZE))
    ring = jit.storage(STORAGE)[1].trace
    ring.count = 3
    ring.records[1].event = Event.CALL
    assert [entry.event for entry in entries(memory(jit))] == [Event.CALL]


def test_nothing_is_recorded_before_a_world_exists(jit: Jit) -> None:
    jit.sysregs.TPIDR_EL2 = 0
    jit.fn(trace.record_here)(Event.CALL, 0, 1, 2)
    jit.fn(trace.record_exception)(1, 2)
    assert entries(memory(jit)) == []


def test_numbers_are_named(jit: Jit) -> None:
    jit.fn(trace.record_here)(Event.CALL, 0, smc64(Call.MAP_GUEST_BLOCK), 1)
    jit.fn(trace.record_here)(Event.LEAVE, 1 << 16, 0x4000_0000, ExitReason.MMIO)
    jit.fn(trace.record_here)(Event.LEAVE, 1 << 16, 0x4000_0000, 0xDEAD)
    jit.fn(trace.record_exception)(syndrome(ExceptionClass.UNKNOWN), 0x4000_0000)
    found = entries(memory(jit))
    assert [entry.name() for entry in found] == ["MAP_GUEST_BLOCK", "MMIO", "", "UNKNOWN"]
    assert found[1].as_json() == {
        "time": 0, "cpu": 1, "event": "leave", "vm": 1, "vcpu": 0, "pc": 0x4000_0000, "exit": int(ExitReason.MMIO),
        "name": "MMIO",
    }  # fmt: skip
    assert str(found[0]).endswith("CPU 1  call       host           x0 0xfb001012  x1 0x1  MAP_GUEST_BLOCK")


def test_a_panic_prints_the_last(jit: Jit) -> None:
    for event in Event:
        jit.fn(trace.record_here)(event, 3 << 16 | 2, 0x1234, 0x5678)
    cpu = jit.storage(STORAGE)[1]
    jit.fn(trace.show)(address_of(cpu))
    head, *lines = jit.log.splitlines()
    assert head == "  before that, at CNTPCT_EL0:"
    assert [line.split()[1] for line in lines] == [event.name.lower() for event in Event]
    assert "enter vCPU 2 of VM 3: PC 0x1234  PSTATE 0x5678" in lines[0]
    for number in range(100):
        jit.fn(trace.record_here)(Event.CALL, 0, number, 0)
    jit.fn(trace.show)(address_of(cpu))
    assert [int(line.split()[2], 16) for line in jit.log.splitlines()[len(Event) + 2 :]] == [*range(88, 100)]


def test_every_event_has_its_fields() -> None:
    assert set(FIELDS) == set(Event)
