# SPDX-License-Identifier: Apache-2.0
"""The run page: offsets as the public driver and VMMs read them, a hostile host, accesses finished and repeated."""

from __future__ import annotations

import itertools
import random
import struct
from typing import Any

import pytest
from caller import RUN_PAGE, WORD, Host, make_vm
from el2 import LOW, PAGE

import gz.core.enter as enter
import gz.core.exits as exits
from gz.abi.calls import Call, smc32, smc64
from gz.abi.exits import ExceptionCode, ExitReason, SystemEvent, Watch
from gz.bits.annotation import type_of
from gz.core.outcome import Outcome
from gz.core.vcpu import Power, Vcpu
from gz.metal.values import view_at

HWSTATE = RUN_PAGE + PAGE


@pytest.fixture(scope="module")
def compiled() -> Host:
    return Host(
        exits.mmio,
        exits.page_fault,
        exits.system_event,
        exits.hypercall,
        exits.publish,
        exits.finish,
        exits.immediate,
        exits.nothing,
        exits.fail_entry,
        enter.lower_serror,
    )


class Guest:
    """vCPU 0 of a VM, its run page as bytes."""

    def __init__(self, host: Host) -> None:
        host.reset()
        host.machine.memory.fill(LOW, 64 * PAGE, 0)
        self.host, self.vmid = host, make_vm(host)
        self.vcpu: Any = view_at(type_of(Vcpu), host.vm(self.vmid).vcpus[0])

    def call(self, function: Any, *arguments: int) -> Any:
        return self.host.machine.fn(function)(self.vcpu, *arguments)

    def field(self, format: str, offset: int) -> int:
        size = struct.calcsize(format)
        return struct.unpack("<" + format, self.host.machine.memory.read(RUN_PAGE + offset, size))[0]

    def access(self, *, write: bool, size: int, register: int, signed: bool = False, wide: bool = True) -> None:
        access = self.vcpu.access
        access.is_write, access.size, access.register, access.length = int(write), size, register, 4
        access.sign_extend, access.is_64bit, access.address = int(signed), int(wide), 0x0A00_0008
        assert self.call(exits.mmio) == Outcome.LEAVE
        self.call(exits.publish)


@pytest.fixture
def guest(compiled: Host) -> Guest:
    return Guest(compiled)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
@pytest.mark.parametrize("register", [0, 17, 30, 31])
def test_store(guest: Guest, size: int, register: int) -> None:
    for i in range(31):
        guest.vcpu.context.x[i] = 0x8182_8384_8586_8780 + i
    guest.vcpu.context.elr = 0x4000
    guest.access(write=True, size=size, register=register)
    value = 0 if register == 31 else 0x8182_8384_8586_8780 + register
    assert guest.field("I", 0) == ExitReason.MMIO == guest.vcpu.exit
    assert guest.field("Q", 8) == 0x0A00_0008
    assert guest.field("Q", 16) == value & (1 << 8 * size) - 1  # no other bit of the register gets out
    assert guest.field("Q", 24) == size
    assert guest.field("I", 32) == register
    assert guest.field("B", 36) == 1
    assert guest.call(exits.finish)
    assert guest.vcpu.context.elr == 0x4004 and guest.vcpu.access.active == 0


NO_LDRS = ((8, True, True), (8, True, False), (4, True, False))
LOADS = [load for load in itertools.product((1, 2, 4, 8), (False, True), (False, True)) if load not in NO_LDRS]


@pytest.mark.parametrize("size, signed, wide", LOADS)
def test_load(guest: Guest, size: int, signed: bool, wide: bool) -> None:
    chance = random.Random(size)
    for register in (0, 5, 30, 31):
        for data in (chance.getrandbits(64), 0x8080_8080_8080_8080, 0x7F7F_7F7F_7F7F_7F7F):
            guest.vcpu.context.elr = 0x4000
            guest.vcpu.context.x[30] = 7
            guest.access(write=False, size=size, register=register, signed=signed, wide=wide)
            assert guest.field("B", 36) == 0 and guest.field("Q", 16) == 0
            # The VMM's answer, and a host that lies about all the rest.
            memory = guest.host.machine.memory
            memory.fill(RUN_PAGE, 264, 0xEE)
            memory.write64(RUN_PAGE + 16, data)
            assert guest.call(exits.finish)
            expected = data & (1 << 8 * size) - 1
            if signed and expected >> 8 * size - 1:
                expected |= WORD << 8 * size & WORD
            if not wide:
                expected &= 0xFFFF_FFFF
            if register < 31:
                assert guest.vcpu.context.x[register] == expected
            else:
                assert guest.vcpu.context.x[30] == 7
            assert guest.vcpu.context.elr == 0x4004


def it_block(state: int) -> int:
    """SPSR of T32 at EL0 with this ITSTATE, one step pending."""
    return 0x30 | (state >> 2) << 10 | (state & 3) << 25 | 1 << 21 | 1 << 31


@pytest.mark.parametrize(
    "before, after",
    [(0, 0), (0x08, 0), (0x0A, 0x14), (0x14, 0x08), (0x18, 0), (0xE1, 0xE2), (0xF1, 0xE2), (0xFC, 0xF8), (0xF8, 0)],
)
@pytest.mark.parametrize("length", [2, 4])
def test_an_instruction_of_aarch32(guest: Guest, before: int, after: int, length: int) -> None:
    """ITAdvance (DDI 0487, G1.3): the condition's last bit and the mask move, the last instruction ends the block."""
    context = guest.vcpu.context
    context.elr, context.spsr = 0x4000, it_block(before)
    guest.access(write=False, size=4, register=0, wide=False)
    guest.vcpu.access.length = length
    assert guest.call(exits.finish)
    assert (context.elr, context.spsr) == (0x4000 + length, it_block(after) & ~(1 << 21))


def test_an_exit_that_was_not_delivered_goes_again(guest: Guest) -> None:
    guest.vcpu.context.x[3] = 0x1234
    guest.vcpu.context.elr = 0x4000
    host = guest.host
    assert host.call(smc64(Call.RUN), guest.vmid << 16) == 0  # this CPU ran it last
    guest.access(write=True, size=4, register=3)
    host.machine.memory.fill(RUN_PAGE, 264, 0)
    assert host.call(smc64(Call.INFORM_EXIT), guest.vmid) == 0
    assert host.call(smc64(Call.RUN), guest.vmid << 16) == 0
    assert host.x[1] == ExitReason.MMIO == guest.field("I", 0)
    assert guest.field("Q", 16) == 0x1234 and guest.field("Q", 24) == 4
    assert guest.vcpu.context.elr == 0x4000
    assert host.call(smc64(Call.RUN), guest.vmid << 16) == 0
    assert host.x[1] == ExitReason.IRQ and guest.vcpu.context.elr == 0x4004


def test_inform_exit_is_for_the_vcpu_that_ran_here_last(guest: Guest) -> None:
    host = guest.host
    assert host.call(smc64(Call.RUN), guest.vmid << 16) == 0
    guest.access(write=False, size=4, register=3)
    assert host.call(smc64(Call.RUN), guest.vmid << 16 | 1) == 0  # another one since then
    assert host.call(smc64(Call.INFORM_EXIT), guest.vmid) == 0
    assert guest.vcpu.access.repeat == 0


@pytest.mark.parametrize("event", [SystemEvent.SHUTDOWN, SystemEvent.RESET])
def test_an_end_that_was_not_delivered_is_told_again(guest: Guest, event: SystemEvent) -> None:
    """Or a signal at the wrong moment leaves a VM that nobody knows to be over."""
    host = guest.host
    assert host.call(smc64(Call.RUN), guest.vmid << 16) == 0
    assert guest.call(exits.system_event, event) == Outcome.LEAVE
    guest.vcpu.power = Power.OFF
    for _ in range(2):
        assert host.call(smc64(Call.INFORM_EXIT), guest.vmid) == 0
        host.machine.memory.fill(RUN_PAGE, 264, 0)
        assert host.call(smc64(Call.RUN), guest.vmid << 16) == 0
        assert host.x[1] == ExitReason.SYSTEM_EVENT == guest.field("I", 0)
        assert guest.field("I", 8) == event
    assert host.call(smc64(Call.RUN), guest.vmid << 16) == 0
    assert host.x[1] == ExitReason.IDLE


@pytest.mark.parametrize("column, written", [(smc32, False), (smc64, True)])
def test_ptp_finds_the_offset_of_the_guests_counter(compiled: Host, column: Any, written: bool) -> None:
    """gzvm ABI 1.5: older drivers have other fields there."""
    compiled.reset()
    compiled.machine.memory.fill(LOW, 64 * PAGE, 0)
    compiled.jit.sysregs.CNTPCT_EL0 = 0x1234_5678
    assert compiled.call(column(Call.CREATE_VM)) == 0
    vmid = compiled.x[1]
    compiled.good(Call.CREATE_VCPU, vmid << 16, RUN_PAGE)
    vcpu = view_at(type_of(Vcpu), compiled.vm(vmid).vcpus[0])
    compiled.machine.fn(exits.hypercall)(vcpu, True)
    assert compiled.machine.memory.read64(HWSTATE + 136) == (0x1234_5678 if written else 0)


def test_page_fault(guest: Guest) -> None:
    guest.host.machine.memory.fill(RUN_PAGE, 264, 0xFF)
    assert guest.call(exits.page_fault, 0x8000_1234) == Outcome.LEAVE
    guest.call(exits.publish)
    assert guest.field("I", 0) == ExitReason.EXCEPTION
    assert (guest.field("I", 8), guest.field("I", 12), guest.field("Q", 16)) == (1, 0, 0x8000_1234)
    assert guest.host.machine.memory.read(RUN_PAGE + 24, 240) == bytes(240)  # or the driver does nothing, for ever


@pytest.mark.parametrize("event", [SystemEvent.SHUTDOWN, SystemEvent.RESET, SystemEvent.CRASH])
def test_system_event(guest: Guest, event: SystemEvent) -> None:
    assert guest.call(exits.system_event, event) == Outcome.LEAVE
    guest.call(exits.publish)
    assert guest.field("I", 0) == ExitReason.SYSTEM_EVENT
    assert (guest.field("I", 8), guest.field("I", 12)) == (event, 0)


def test_hypercall_with_and_without_results(guest: Guest) -> None:
    memory = guest.host.machine.memory
    for i in range(8):
        guest.vcpu.context.x[i] = 100 + i
    assert guest.call(exits.hypercall, True) == Outcome.LEAVE
    assert [guest.field("Q", 8 + 8 * i) for i in range(8)] == [100 + i for i in range(8)]
    for i in range(8):
        memory.write64(RUN_PAGE + 8 + 8 * i, 200 + i)
    elr = guest.vcpu.context.elr
    assert guest.call(exits.finish)
    assert [guest.vcpu.context.x[i] for i in range(8)] == [200, 201, 202, 203, 104, 105, 106, 107]
    assert guest.vcpu.context.elr == elr  # an HVC is behind the guest already
    assert guest.call(exits.hypercall, False) == Outcome.LEAVE
    assert guest.vcpu.access.active == 0


def test_immediate_exit_is_one_and_nothing_else(guest: Guest) -> None:
    for value in range(256):
        guest.host.machine.memory.fill(RUN_PAGE + 4, 1, value)
        assert guest.call(exits.immediate) == (value == 1)


def test_small_exits(guest: Guest) -> None:
    assert guest.call(exits.nothing) == ExitReason.GZ == guest.field("I", 0)
    assert guest.call(exits.fail_entry, 3) == ExitReason.FAIL_ENTRY == guest.field("I", 0)
    assert (guest.field("Q", 8), guest.field("I", 16)) == (exits.ENTRY_BUSY, 3)


def test_nothing_but_the_two_pages_is_written(guest: Guest) -> None:
    """All exits with a page of canaries on either side, and the rest of the run page left alone."""
    memory = guest.host.machine.memory
    memory.fill(RUN_PAGE + 264, PAGE - 264, 0xC3)
    memory.fill(RUN_PAGE + 2 * PAGE, PAGE, 0xC3)
    memory.fill(HWSTATE, PAGE, 0xC3)
    guest.access(write=True, size=8, register=1)
    guest.call(exits.page_fault, WORD)
    guest.call(exits.hypercall, True)
    guest.call(exits.system_event, SystemEvent.CRASH)
    guest.call(exits.publish)
    assert memory.read(RUN_PAGE + 264, PAGE - 264) == b"\xc3" * (PAGE - 264)
    assert memory.read(RUN_PAGE + 2 * PAGE, PAGE) == b"\xc3" * PAGE
    offset = guest.host.vm(guest.vmid).counter_offset.to_bytes(8, "little")
    assert memory.read(HWSTATE, PAGE) == b"\xc3" * 136 + offset + b"\xc3" * (PAGE - 144)
    guest.vcpu.exit = ExitReason.IDLE
    guest.call(exits.publish)
    assert memory.read(HWSTATE, 136) == b"\xc3" * 136 and memory.read(HWSTATE + 156, 8) == b"\xc3" * 8


def test_serror_waits_for_the_guest(guest: Guest) -> None:
    """HCR_EL2.VSE stays with the vCPU until the CPU has cleared it; who watches hears of it."""
    host, vse = guest.host, 1 << 8
    serror = host.jit.raw("gz.core.enter.lower_serror")

    def enter_guest() -> int:
        host.x[0], host.x[1] = smc64(Call.RUN), guest.vmid << 16
        return host.hypercall(host.context, 0)

    below = enter_guest()
    assert serror(host.context) == host.context, "the host's own never comes here"
    assert serror(below) == below
    assert host.jit.sysregs.HCR_EL2 & vse
    assert host.interrupt(below) == host.context
    assert host.jit.sysregs.HCR_EL2 & vse == 0, "the host is not hit"
    below = enter_guest()
    assert host.jit.sysregs.HCR_EL2 & vse
    host.jit.sysregs.HCR_EL2 &= ~vse  # the guest takes it
    assert host.interrupt(below) == host.context
    below = enter_guest()
    assert host.jit.sysregs.HCR_EL2 & vse == 0
    host.vm(guest.vmid).watched = Watch.SERROR
    host.jit.sysregs.ESR_EL2 = 0xBE00_0011
    assert serror(below) == host.context
    assert guest.field("I", 0) == ExitReason.EXCEPTION
    assert (guest.field("I", 8), guest.field("I", 12)) == (ExceptionCode.SERROR, 0xBE00_0011)
    enter_guest()
    assert host.jit.sysregs.HCR_EL2 & vse
