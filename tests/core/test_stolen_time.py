# SPDX-License-Identifier: Apache-2.0
"""Stolen time (DEN0057): grows while a vCPU that could run does not, is the guest's to read, and nobody's to write."""

from __future__ import annotations

from typing import Any

import pytest
from caller import GUEST_BASE, MAILBOX, Host, declare, finish, make_vm
from el2 import BLOCK, PAGE
from walker import walk

import gz.core.guest_calls as guest_calls
import gz.core.stage2 as stage2
from gz.abi.calls import Call, smc64
from gz.abi.errors import Error
from gz.arm64.smccc import NOT_SUPPORTED, ParavirtTime, Smccc
from gz.bits.annotation import type_of
from gz.core.memory import RAM_WINDOW
from gz.core.vcpu import Vcpu
from gz.metal.values import view_at

TICKS = 62_500_000  # a second, as the host's CNTFRQ_EL0
WINDOW = (1 << 40) - 0x1_0000
READ_ONLY = 1 << 6


@pytest.fixture(scope="module")
def compiled() -> Host:
    return Host(guest_calls.call, stage2.guest_memory)


@pytest.fixture
def host(compiled: Host) -> Host:
    compiled.reset()
    compiled.jit.sysregs.CNTPCT_EL0 = 1000
    return compiled


def ask(host: Host, vmid: int, function: int, argument: int = 0, vcpu: int = 0) -> int:
    """x0 of a guest's HVC."""
    below: Any = view_at(type_of(Vcpu), host.vm(vmid).vcpus[vcpu])
    below.context.cpu = host.context
    below.context.x[0], below.context.x[1] = function, argument
    host.machine.fn(guest_calls.call)(below)
    return below.context.x[0]


def stolen(host: Host, at: int, vmid: int = 1) -> int:
    """Nanoseconds, as the guest reads them: through its stage 2."""
    vtcr, vttbr = host.machine.fn(stage2.vtcr)(), host.machine.fn(stage2.vttbr)(host.vm(vmid).stage2)
    found = walk(host.machine.memory.read64, vtcr, vttbr, at)
    assert found is not None and found.attributes & 0xC0 == READ_ONLY
    assert host.machine.memory.read64(found.pa) == 0, "revision and attributes"
    return host.machine.memory.read64(found.pa + 8)


def run(host: Host, vmid: int, after: int, vcpu: int = 0) -> None:
    """RUN, `after` ticks from now; an interrupt ends it at once."""
    host.jit.sysregs.CNTPCT_EL0 += after
    assert host.call(smc64(Call.RUN), vmid << 16 | vcpu) == 0


def test_discovery(host: Host) -> None:
    """As Linux asks (arch/arm64/kernel/paravirt.c)."""
    vmid = make_vm(host)
    assert ask(host, vmid, Smccc.ARCH_FEATURES, ParavirtTime.FEATURES) == 0
    assert ask(host, vmid, ParavirtTime.FEATURES, ParavirtTime.STOLEN_TIME) == 0
    assert ask(host, vmid, ParavirtTime.FEATURES, ParavirtTime.FEATURES) == 0
    assert ask(host, vmid, ParavirtTime.FEATURES, 0xC500_0022) == NOT_SUPPORTED
    host.jit.clear_events()
    assert ask(host, vmid, ParavirtTime.STOLEN_TIME) == WINDOW
    cleaned = {event.value & ~(PAGE - 1) for event in host.jit.events if event.name == "dc civac"}
    assert cleaned == {RAM_WINDOW + host.vm(vmid).stolen}, "of what the frame was, a guest past the caches sees nothing"
    assert ask(host, vmid, ParavirtTime.STOLEN_TIME, vcpu=1) == WINDOW + 64
    finish(host)


def test_a_handle_that_is_used_again_has_records_of_its_own(host: Host) -> None:
    """The frame of the VM before it is somebody else's by now."""
    vmid = make_vm(host)
    assert ask(host, vmid, ParavirtTime.STOLEN_TIME) == WINDOW
    host.good(Call.DESTROY_VM, vmid, 0)
    assert make_vm(host) == vmid and host.vm(vmid).stolen == 0
    assert ask(host, vmid, ParavirtTime.STOLEN_TIME) == WINDOW
    assert stolen(host, WINDOW) == 0
    finish(host)


def test_only_waiting_counts(host: Host) -> None:
    vmid = make_vm(host)
    at = ask(host, vmid, ParavirtTime.STOLEN_TIME)
    run(host, vmid, 500)
    assert stolen(host, at) == 0, "it never ran before"
    run(host, vmid, TICKS)
    assert stolen(host, at) == 1_000_000_000
    run(host, vmid, 1)
    assert stolen(host, at) == 1_000_000_016
    assert stolen(host, at + 64) == 0
    run(host, vmid, 5000 * TICKS)
    assert stolen(host, at) == 5_001_000_000_016, "no overflow on the way to nanoseconds"
    finish(host)


def test_what_was_waited_before_the_guest_asked_is_told(host: Host) -> None:
    vmid = make_vm(host)
    run(host, vmid, 0, vcpu=1)
    run(host, vmid, 2 * TICKS, vcpu=1)
    at = ask(host, vmid, ParavirtTime.STOLEN_TIME, vcpu=1)
    assert stolen(host, at) in (0, 2_000_000_000)
    finish(host)


def test_a_counter_that_goes_back_steals_nothing(host: Host) -> None:
    vmid = make_vm(host)
    at = ask(host, vmid, ParavirtTime.STOLEN_TIME)
    run(host, vmid, TICKS)
    run(host, vmid, -5)
    assert stolen(host, at) == 0
    finish(host)


def test_no_slot_takes_the_window(host: Host) -> None:
    """A slot there would give the core's frame to the host at the VM's end."""
    vmid = make_vm(host)
    at = ask(host, vmid, ParavirtTime.STOLEN_TIME)
    for base, size in ((at, PAGE), (at - PAGE, 2 * PAGE), (at + 15 * PAGE, PAGE), (at & ~(BLOCK - 1), BLOCK)):
        assert host.call(smc64(Call.MEMREGION_PURPOSE), vmid, base, size, 1) == Error.INVALID_ARGS
    assert declare(host, vmid, 1, at - PAGE, PAGE) == 0
    host.machine.memory.write64(MAILBOX, GUEST_BASE)
    assert host.call(smc64(Call.MAP_GUEST), vmid, 1, 0x4_0001, at // PAGE, 1) == Error.INVALID_ARGS
    finish(host)


def test_without_frames_there_is_none(host: Host) -> None:
    vmid = make_vm(host)
    pool = host.jit.storage("gz.core.frames.pool")
    used = list(pool.used)
    for i in range(len(used)):
        pool.used[i] = (1 << 64) - 1
    assert ask(host, vmid, ParavirtTime.STOLEN_TIME) == NOT_SUPPORTED
    for i, word in enumerate(used):
        pool.used[i] = word
    pool.hint = 0
    assert ask(host, vmid, ParavirtTime.STOLEN_TIME) == WINDOW
    finish(host)


@pytest.mark.parametrize("forced", [0, 1])
def test_memory_is_of_the_guests_kind(host: Host, forced: int) -> None:
    """With FEAT_S2FWB attributes mean something else: all but the right to write is as for RAM; nothing runs there."""
    host.jit.storage("gz.core.platform.machine").forces_write_back = forced
    vmid = make_vm(host)
    at = ask(host, vmid, ParavirtTime.STOLEN_TIME)
    vtcr, vttbr = host.machine.fn(stage2.vtcr)(), host.machine.fn(stage2.vttbr)(host.vm(vmid).stage2)
    found = walk(host.machine.memory.read64, vtcr, vttbr, at)
    ram = host.machine.fn(stage2.guest_memory)()
    assert found is not None and found.attributes == ram & ~0x80 | 1 << 54
    finish(host)
