# SPDX-License-Identifier: Apache-2.0
"""The host's calls against the oracle, and with arguments that no sane host would give."""

from __future__ import annotations

import ctypes
import os
from collections import Counter

import pytest
from caller import (
    BUFFER,
    GUEST_BASE,
    GUEST_RAM,
    MAILBOX,
    RUN_PAGE,
    WORD,
    Host,
    declare,
    finish,
    mail,
    make_vm,
    populate,
)
from el2 import BLOCK, CORE, FRAME_COUNT, LOW, LOW_SIZE, PAGE
from oracle import FAIL_ENTRY, GZ, IDLE, OK
from random_host import RandomHost

import gz.core.reclaim as reclaim
from gz.abi.calls import Call, smc32, smc64
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.abi.registers import PSTATE
from gz.bits.annotation import type_of
from gz.core.context import Context
from gz.core.memory import RAM_WINDOW
from gz.core.vcpu import Vcpu
from gz.metal.values import view_at

DISTRIBUTOR, REDISTRIBUTOR = 0, 1


@pytest.fixture(scope="module")
def compiled() -> Host:
    return Host()


@pytest.fixture
def host(compiled: Host) -> Host:
    compiled.reset()
    return compiled


def test_both_columns_and_the_doorbell(host: Host) -> None:
    for column in (smc32, smc64):
        assert host.call(column(Call.PROBE), 16) == 0
        assert list(host.x[1:4]) == [16, 0, 0]
    host.jit.sysregs.ELR_EL2 = 0x1000
    assert host.call(smc64(Call.PROBE), doorbell=True) == 0
    assert host.jit.sysregs.ELR_EL2 == 0x1004
    host.call(smc64(Call.PROBE))
    assert host.jit.sysregs.ELR_EL2 == 0x1004
    one = host.good(Call.CREATE_VM)
    assert host.call(smc32(Call.CREATE_VM)) == 0
    assert (host.vm(one).smc64, host.vm(host.x[1]).smc64) == (1, 0)


@pytest.mark.parametrize("function", [0, 0xBB00_1014, 0xFB00_0FFF, 0x8400_0000, 0xBF00_1000])
def test_unknown_functions(host: Host, function: int) -> None:
    assert host.call(function, 1, 2, 3) == -1
    assert host.x[0] == WORD


def test_reserved_numbers(host: Host) -> None:
    vmid = make_vm(host)
    for call in (Call.GET_REGS, Call.SET_REGS):
        assert host.call(smc64(call), vmid << 16) == Error.NOT_IMPLEMENTED


def test_demand_paging_by_blocks(host: Host) -> None:
    vmid = make_vm(host)
    frames = host.machine.free_frames
    mail(host, [GUEST_RAM // PAGE + i for i in range(512)])
    host.good(Call.MAP_GUEST_BLOCK, vmid, 0, GUEST_BASE // PAGE, 512)
    assert host.mapped(vmid) == {GUEST_BASE // PAGE + i: GUEST_RAM // PAGE + i for i in range(512)}
    assert frames - host.machine.free_frames == 1  # one block: no table of level 3
    host.good(Call.MAP_GUEST_BLOCK, vmid, 0, GUEST_BASE // PAGE, 512)
    # Scattered pages, two of them as they are already (another vCPU was faster).
    pfns = [GUEST_RAM // PAGE + 512 + i * 7 % 512 for i in range(512)]
    at = GUEST_BASE // PAGE + 512
    host.good(Call.MAP_GUEST, vmid, 0, pfns[3], at + 3, 1)
    mail(host, pfns)
    host.good(Call.MAP_GUEST_BLOCK, vmid, 0, at, 512)
    assert [host.mapped(vmid)[at + i] for i in range(512)] == pfns
    host.good(Call.GET_STATISTICS, vmid)
    assert host.x[2] == 1024 * PAGE
    spent = host.vm(vmid).frame_count + host.vm(vmid).stage2.frames
    assert host.x[1] == spent * PAGE


def test_pages_are_clean_before_the_guest_sees_them(host: Host) -> None:
    """A guest begins with its caches off: what the host wrote has to be in memory."""
    vmid = make_vm(host)
    seen: list[int] = []
    for pfns in ([GUEST_RAM // PAGE + i for i in range(512)], [GUEST_RAM // PAGE + 512 + 3 * i for i in range(512)]):
        mail(host, pfns)
        host.jit.clear_events()
        host.good(Call.MAP_GUEST_BLOCK, vmid, 0, GUEST_BASE // PAGE + len(seen), 512)
        seen += pfns
        cleaned = [event.value - RAM_WINDOW for event in host.jit.events if event.name == "dc civac"]
        assert cleaned == [pfn * PAGE for pfn in pfns]
        host.jit.clear_events()
        host.good(Call.MAP_GUEST_BLOCK, vmid, 0, GUEST_BASE // PAGE + len(seen) - 512, 512)
        assert "dc civac" not in [event.name for event in host.jit.events]  # they may be dirty in the guest's caches


def test_a_block_with_one_wrong_page_has_no_effect(host: Host) -> None:
    vmid = make_vm(host)
    other = host.good(Call.CREATE_VM)
    assert declare(host, other, 0, 0, BLOCK) == 0
    host.good(Call.MAP_GUEST, other, 0, GUEST_RAM // PAGE + 9, 0, 1)
    frames, entries = host.machine.free_frames, bytes(host.machine.entries().cast("B"))
    good = [GUEST_RAM // PAGE + i for i in range(512)]
    for wrong in (
        GUEST_RAM // PAGE + 9,  # another guest's
        GUEST_RAM // PAGE,  # twice
        CORE // PAGE,
        (LOW + LOW_SIZE) // PAGE,  # a hole
        0x0900_0000 // PAGE,  # a device
        MAILBOX // PAGE,
        1 << 36,
        WORD,
    ):
        for place in (0, 77, 511):
            pfns = list(good)
            pfns[9] = GUEST_RAM // PAGE + 600
            pfns[place] = wrong
            if pfns.count(wrong) == 1 and wrong == GUEST_RAM // PAGE:
                continue
            mail(host, pfns)
            assert host.call(smc64(Call.MAP_GUEST_BLOCK), vmid, 0, GUEST_BASE // PAGE, 512) == Error.INVALID_ARGS
            assert host.mapped(vmid) == {}
            assert host.machine.free_frames == frames
            assert bytes(host.machine.entries().cast("B")) == entries


def test_ballooned_hole_gets_a_new_page(host: Host) -> None:
    vmid = make_vm(host)
    pfns = [GUEST_RAM // PAGE + i for i in range(512)]
    mail(host, pfns)
    host.good(Call.MAP_GUEST_BLOCK, vmid, 0, GUEST_BASE // PAGE, 512)
    host.machine.memory.fill(GUEST_RAM + 5 * PAGE, PAGE, 0x5A)
    vcpu = view_at(type_of(Vcpu), host.vm(vmid).vcpus[0])
    relinquish = host.machine.fn(reclaim.relinquish)
    assert relinquish(vcpu, GUEST_BASE + 5 * PAGE) == 0
    assert relinquish(vcpu, GUEST_BASE + 5 * PAGE) == Error.INVALID_ARGS
    assert relinquish(vcpu, GUEST_BASE + 5 * PAGE + 8) == Error.INVALID_ARGS
    assert relinquish(vcpu, 0) == Error.INVALID_ARGS
    assert host.machine.memory.read(GUEST_RAM + 5 * PAGE, PAGE) == bytes(PAGE)
    assert host.machine.entry(GUEST_RAM + 5 * PAGE) == 0
    assert GUEST_BASE // PAGE + 5 not in host.mapped(vmid) and len(host.mapped(vmid)) == 511
    assert host.vm(vmid).slots[0].mapped == 511
    host.good(Call.GET_STATISTICS, vmid)
    assert host.x[2] == 511 * PAGE
    pfns[5] = GUEST_RAM // PAGE + 3000
    mail(host, pfns)
    host.good(Call.MAP_GUEST_BLOCK, vmid, 0, GUEST_BASE // PAGE, 512)
    assert host.mapped(vmid)[GUEST_BASE // PAGE + 5] == pfns[5]


def test_all_pages_come_back(host: Host) -> None:
    frames = host.machine.free_frames
    vmid = make_vm(host)
    runs = [(GUEST_RAM + 2 * i * PAGE, 1) for i in range(400)] + [(GUEST_RAM + 4 * BLOCK, 512)]
    assert populate(host, vmid, 0, GUEST_BASE, runs) == 0
    assert host.call(smc64(Call.DESTROY_VM), vmid, 128) == Error.BUSY
    assert host.call(smc64(Call.MAP_GUEST), vmid, 0, GUEST_RAM // PAGE, GUEST_BASE // PAGE, 1) == Error.INVALID_ARGS
    rounds = 1
    while host.call(smc64(Call.DESTROY_VM), vmid, 128) == Error.BUSY:
        rounds += 1
    assert 3 <= rounds <= 12
    assert host.machine.free_frames == frames
    assert not any(host.machine.entries()[: (CORE - LOW) // PAGE])
    assert host.call(smc64(Call.DESTROY_VM), vmid, 128) == Error.INVALID_ARGS
    assert host.good(Call.CREATE_VM) == vmid


@pytest.mark.parametrize("doorbell", [False, True])
def test_a_long_end_lets_interrupts_in(host: Host, doorbell: bool) -> None:
    """H4: DESTROY_VM without batches comes back again and again, at the same instruction."""
    vmid = make_vm(host)
    assert populate(host, vmid, 0, GUEST_BASE, [(GUEST_RAM + 2 * i * PAGE, 1) for i in range(500)]) == 0
    for i in range(4):
        host.good(Call.MAP_GUEST, vmid, 0, (GUEST_RAM + 8 * BLOCK) // PAGE + i, GUEST_BASE // PAGE + 1000 + 3 * i, 1)
    assert populate(host, vmid, 0, GUEST_BASE + 2 * BLOCK, [(GUEST_RAM + 4 * BLOCK, 1024)]) == 0
    for i, argument in enumerate((smc64(Call.DESTROY_VM), vmid, 0, 7)):
        host.x[i] = argument
    rounds = 0
    while not host.piece(doorbell):
        rounds += 1
    assert host.x[0] == 0 and 500 // 128 + 2 <= rounds <= 30
    finish(host)


def test_translations_are_forgotten_before_pages_return(host: Host) -> None:
    vmid = make_vm(host)
    assert populate(host, vmid, 0, GUEST_BASE, [(GUEST_RAM, 3)]) == 0
    host.jit.clear_events()
    lent: list[int] = []
    host.jit.on_write("VTTBR_EL2", lambda value: lent.append(host.machine.entry(GUEST_RAM)))
    host.good(Call.DESTROY_VM, vmid, 0)
    assert "tlbi vmalls12e1is" in [event.name for event in host.jit.events]
    assert lent[0] == 1 | vmid << 8 and host.machine.entry(GUEST_RAM) == 0


def test_run_of_what_does_not_exist(host: Host) -> None:
    vmid = make_vm(host)
    for tuple_ in (vmid << 16 | 2, vmid << 16 | 8, vmid << 16 | 0xFFFF, (vmid + 1) << 16, 0, WORD, vmid):
        for doorbell in (False, True):
            assert host.call(smc64(Call.RUN), tuple_, doorbell=doorbell) == Error.INVALID_ARGS
            assert host.x[1] == ExitReason.FAIL_ENTRY


def test_run_of_a_parked_vcpu(host: Host) -> None:
    vmid = make_vm(host)
    memory = host.machine.memory
    assert host.call(smc64(Call.RUN), vmid << 16 | 1) == 0
    assert host.x[1] == ExitReason.IDLE == memory.read32(RUN_PAGE + 2 * PAGE)
    delay, migrate = memory.read64(RUN_PAGE + 3 * PAGE + 144), memory.read32(RUN_PAGE + 3 * PAGE + 152)
    assert 0 < delay < 30 * 62_500_000 and migrate == 1
    assert host.call(smc32(Call.CREATE_VM)) == 0
    old = host.x[1]
    host.good(Call.CREATE_VCPU, old << 16 | 3, LOW + 40 * PAGE)
    assert host.call(smc32(Call.RUN), old << 16 | 3) == 0
    assert host.x[1] == ExitReason.GZ
    assert memory.read(LOW + 41 * PAGE, PAGE) == bytes(PAGE)  # drivers by SMC32 have other fields there


def test_a_vcpu_that_runs_is_left_alone(host: Host) -> None:
    vmid = make_vm(host)
    host.x[0], host.x[1] = smc64(Call.RUN), vmid << 16
    below = host.hypercall(host.context, 0)
    assert below != host.context
    first, address = host.start_cpus(2)
    host.context = address
    host.x = (ctypes.c_uint64 * 31).from_address(address)
    assert host.call(smc64(Call.RUN), vmid << 16) == 0
    assert host.x[1] == ExitReason.FAIL_ENTRY
    assert host.call(smc64(Call.DESTROY_VCPU), vmid << 16) == Error.BUSY
    assert host.call(smc64(Call.DESTROY_VCPU), vmid << 16 | 1) == Error.BUSY
    assert host.call(smc64(Call.DESTROY_VM), vmid, 128) == Error.BUSY
    assert host.call(smc64(Call.DESTROY_VM), vmid, 0) == Error.INVALID_ARGS  # BUSY is for batches alone
    assert host.call(smc64(Call.SET_ONE_REG), vmid << 16, 0x6030_0000_0010_0000, 5) == Error.BUSY
    assert host.interrupt(below) == first
    assert host.call(smc64(Call.DESTROY_VM), vmid, 0) == 0


def test_there_is_no_firmware(host: Host) -> None:
    vmid = make_vm(host)
    assert host.good(Call.ENABLE_CAP, vmid, 0xFFBADAB1, 1) == 0
    for sub in (0, 3):
        assert host.call(smc64(Call.ENABLE_CAP), vmid, 0xFFBADAB1, sub) == Error.NOT_SUPPORTED
    assert host.call(smc64(Call.ENABLE_CAP), 0, 0x9203) == Error.INVALID_ARGS


def test_populate_for_drivers_that_never_announce(host: Host) -> None:
    assert host.call(smc32(Call.CREATE_VM)) == 0
    vmid = host.x[1]
    assert populate(host, vmid, 1, GUEST_BASE, [(GUEST_RAM, 5)], smc32) == 0
    assert populate(host, vmid, 1, GUEST_BASE + 5 * PAGE, [(GUEST_RAM + BLOCK, 2)], smc32) == 0
    assert populate(host, vmid, 1, GUEST_BASE + 8 * PAGE, [(GUEST_RAM + 2 * BLOCK, 2)], smc32) == Error.INVALID_ARGS
    assert len(host.mapped(vmid)) == 7
    slot = host.vm(vmid).slots[1]
    assert (slot.base, slot.page_count, slot.mapped) == (GUEST_BASE, 7, 7)


def test_slots_never_overlap_nor_wrap(host: Host) -> None:
    vmid = make_vm(host)
    assert declare(host, vmid, 1, GUEST_BASE + BLOCK, BLOCK) == Error.INVALID_ARGS
    assert declare(host, vmid, 1, GUEST_BASE - BLOCK, 2 * BLOCK) == Error.INVALID_ARGS
    assert declare(host, vmid, 10, 0, BLOCK) == Error.INVALID_ARGS
    assert declare(host, vmid, 1, GUEST_BASE - BLOCK, BLOCK) == 0
    assert declare(host, vmid, 1, GUEST_BASE - BLOCK, BLOCK) == 0  # the same again
    assert declare(host, vmid, 1, 0, BLOCK) == 0  # moved: nothing was in it
    host.good(Call.MAP_GUEST, vmid, 1, GUEST_RAM // PAGE, 0, 1)
    assert declare(host, vmid, 1, BLOCK, BLOCK) == Error.INVALID_ARGS
    for gpa, size in ((1 << 40, PAGE), ((1 << 40) - PAGE, 2 * PAGE), (WORD - 4095, 2 * PAGE), (0, 0), (1, PAGE)):
        assert host.call(smc64(Call.MEMREGION_PURPOSE), vmid, gpa, size, 1) == Error.INVALID_ARGS


def test_buffers_that_are_not_the_hosts(host: Host) -> None:
    vmid = make_vm(host)
    lent = GUEST_RAM + 100 * PAGE
    host.good(Call.MAP_GUEST, vmid, 0, lent // PAGE, GUEST_BASE // PAGE, 1)
    for bad in (CORE, LOW - PAGE, 0, 0x0900_0000, LOW + LOW_SIZE, LOW + 8, WORD - 4095, lent, LOW + LOW_SIZE - PAGE):
        assert host.call(smc64(Call.SET_MEMREGION), vmid, 2 * PAGE, bad) == Error.INVALID_ARGS
        assert host.call(smc64(Call.CREATE_VCPU), vmid << 16 | 5, bad) == Error.INVALID_ARGS
        assert host.call(smc64(Call.ENABLE_CAP), vmid, 0x9201, 0x20_0000, bad) == Error.INVALID_ARGS
        if bad != LOW + 8:
            assert host.call(smc64(Call.CREATE_DEVICE), vmid, bad) == Error.INVALID_ARGS
    memory, across = host.machine.memory, LOW + PAGE - 40
    memory.write_words(across, [DISTRIBUTOR, 0, 0x0800_0000, 0x1_0000, 0, 0])
    assert host.call(smc64(Call.CREATE_DEVICE), vmid, across) == Error.INVALID_ARGS
    memory.write_words(across - 8, [DISTRIBUTOR, 0, 0x0800_0000, 0x1_0000, 0, 0])
    assert host.call(smc64(Call.CREATE_DEVICE), vmid, across - 8) == 0, "the page's end is fine"
    assert host.call(smc64(Call.MAP_GUEST), vmid, 0, MAILBOX // PAGE, GUEST_BASE // PAGE + 1, 1) == Error.INVALID_ARGS


def test_no_call_maps_more_than_a_block(host: Host) -> None:
    """H4; the mailbox ends there too: what is behind it is not the core's to read."""
    vmid = make_vm(host)
    gfn, pfn = GUEST_BASE // PAGE, GUEST_RAM // PAGE
    host.machine.memory.write_words(MAILBOX, [pfn + i for i in range(513)])
    for count in (0, 513, 1024, WORD):
        assert host.call(smc64(Call.MAP_GUEST), vmid, 0, pfn, gfn, count) == Error.INVALID_ARGS
        assert host.call(smc64(Call.MAP_GUEST_BLOCK), vmid, 0, gfn, count) == Error.INVALID_ARGS
    for wrapped in (1 << 52 | pfn, 1 << 63 | pfn, 1 << 36 | pfn):  # as an address, a page of the host's again
        assert host.call(smc64(Call.MAP_GUEST), vmid, 0, wrapped, gfn, 1) == Error.INVALID_ARGS
        host.machine.memory.write_words(MAILBOX, [wrapped])
        assert host.call(smc64(Call.MAP_GUEST_BLOCK), vmid, 0, gfn, 1) == Error.INVALID_ARGS
    host.machine.memory.write_words(MAILBOX, [pfn + i for i in range(512)])
    assert host.mapped(vmid) == {}
    host.good(Call.MAP_GUEST_BLOCK, vmid, 0, gfn, 512)
    host.good(Call.MAP_GUEST, vmid, 0, pfn + 512, gfn + 512, 512)
    finish(host)


def test_processor_states_that_a_host_may_choose(host: Host) -> None:
    """C3: EL0 and EL1 of AArch64, flags and masks; never EL2, AArch32, an illegal state, a step or a reserved bit."""
    vmid = make_vm(host)
    boot = vmid << 16
    host.good(Call.SET_ONE_REG, boot, PSTATE, 0xF000_03C5)
    for value in range(1 << 10):
        good = value & 0x3F in (0, 4, 5)
        assert (host.call(smc64(Call.SET_ONE_REG), boot, PSTATE, value) == 0) == good, hex(value)
    host.good(Call.SET_ONE_REG, boot, PSTATE, 0x3C5)
    for bit in range(10, 64):
        status = host.call(smc64(Call.SET_ONE_REG), boot, PSTATE, 0x3C5 | 1 << bit)
        assert status == (0 if bit in (28, 29, 30, 31) else Error.INVALID_ARGS), bit
        host.good(Call.SET_ONE_REG, boot, PSTATE, 0x3C5)
    finish(host)


def test_vcpus_on_one_cpu_share_no_translations(host: Host) -> None:
    """A guest may use an ASID for other tables on each of its CPUs (DDI 0487, D8.16): as if each had its own TLB."""
    vmid, other = make_vm(host), make_vm(host)
    second, _ = host.start_cpus(2)[::-1]
    vttbrs: list[int] = []
    for vm, vcpu, context, flushed in (
        *((vmid, 0, host.context, False), (vmid, 0, host.context, False), (vmid, 1, host.context, True)),
        *((vmid, 1, host.context, False), (other, 0, host.context, False), (vmid, 1, host.context, False)),
        *((vmid, 0, second, False), (vmid, 0, host.context, True), (vmid, 1, second, True)),
    ):
        host.jit.clear_events()
        vttbrs.clear()
        host.jit.on_write("VTTBR_EL2", vttbrs.append)
        x = (ctypes.c_uint64 * 31).from_address(context + Context.offset("x"))
        x[0], x[1] = smc64(Call.RUN), vm << 16 | vcpu
        below = host.hypercall(context, 0)
        assert [event.name for event in host.jit.events].count("tlbi vmalle1") == flushed
        assert not flushed or [v >> 48 for v in vttbrs[:2]] == [vm, 0], "below the guest's VMID"
        assert host.interrupt(below) == context
    finish(host)


# Random hosts.

MODELLED = [call for call in Call if call not in (Call.RUN, Call.IRQ_LINE, Call.CREATE_DEVICE)]
RARE = (Call.DESTROY_VM, Call.CREATE_VM, Call.GET_REGS, Call.SET_REGS)
CALLS = int(os.environ.get("GZ_CALLS", "120000"))  # more and others: docs/security.md has the record
SEED = int(os.environ.get("GZ_SEED", "0"))
WEIGHTS = [1 if call in RARE else 20 for call in MODELLED]


@pytest.mark.parametrize("seed", range(4))
def test_random_calls_agree_with_the_oracle(host: Host, seed: int) -> None:
    """H1, M4, M5, M7."""
    random_host = RandomHost(host, SEED + seed)
    good: Counter[Call] = Counter()
    for step in range(CALLS // 4):
        call = random_host.chance.choices(MODELLED, WEIGHTS)[0]
        good[call] += random_host.step(call) == OK
        if step % 1000 == 0:
            random_host.compare()
    random_host.compare()
    never = [call.name for call in MODELLED if not good[call] and call not in (Call.GET_REGS, Call.SET_REGS)]
    assert not never, f"these never succeeded: {never}"
    finish(host)


@pytest.mark.parametrize("seed, frame_count", [(0, FRAME_COUNT), (1, FRAME_COUNT), (2, 14), (3, 9), (4, 5)])
def test_wild_calls_leave_the_core_whole(host: Host, seed: int, frame_count: int) -> None:
    """H1, H8: all calls with RUN, words of any kind, few frames or many; in the end everything goes back."""
    host.reset(frame_count=frame_count)
    random_host = RandomHost(host, 100 + seed)
    chance = random_host.chance
    for _ in range(60_000):
        if chance.random() < 0.3:
            words = [
                chance.choice((chance.getrandbits(64), chance.getrandbits(8), random_host.page())) for _ in range(7)
            ]
            x = [chance.choice((smc64(chance.choice(list(Call))), chance.getrandbits(64))), *words]
        else:
            call = chance.choice(list(Call))
            x = [chance.choice((smc32, smc64))(call), *random_host.arguments(call)]
        doorbell = chance.random() < 0.5
        host.call(*x, doorbell=doorbell)
        if x[0] & 0xBFFF_FFFF == smc32(Call.RUN):
            restarts = doorbell and host.x[0] == x[0]  # a guest ran: the store goes again
            assert restarts or host.x[1] in (FAIL_ENTRY, GZ, IDLE, ExitReason.IRQ)
    finish(host)


def create_device(
    host: Host, vmid: int, kind: int, base: int, size: int, *, flags: int = 0, attributes: int = 0
) -> int:
    memory = host.machine.memory
    memory.fill(BUFFER, PAGE, 0xCC)
    memory.write_words(BUFFER + 0x40, [kind, flags, base, size, 0x1234, attributes])
    return host.call(smc64(Call.CREATE_DEVICE), vmid, BUFFER + 0x40)


@pytest.mark.parametrize(
    "kind, size, extent", [(DISTRIBUTOR, 0x1_0000, 0x1_0000), (REDISTRIBUTOR, 0x2_0000, 0x10_0000)]
)
def test_no_device_lies_in_memory(host: Host, kind: int, size: int, extent: int) -> None:
    """Registers would swallow what a guest writes to a page that it does not have yet; nor may memory come to them."""
    vmid = make_vm(host)
    end = GUEST_BASE + 4 * BLOCK
    for base in (GUEST_BASE, GUEST_BASE + BLOCK, end - 0x1_0000, GUEST_BASE + 0x1_0000 - extent):
        assert create_device(host, vmid, kind, base, size) == Error.INVALID_ARGS
    assert create_device(host, vmid, kind, GUEST_BASE - extent, size) == OK
    assert declare(host, vmid, 1, GUEST_BASE - extent - BLOCK, BLOCK) == 0
    for base, length in ((GUEST_BASE - PAGE, PAGE), (GUEST_BASE - extent, PAGE), (GUEST_BASE - 4 * BLOCK, 4 * BLOCK)):
        assert declare(host, vmid, 2, base, length) == Error.INVALID_ARGS
    early = host.good(Call.CREATE_VM)  # a driver that announces nothing
    assert create_device(host, early, kind, GUEST_BASE, size) == OK
    assert populate(host, early, 0, GUEST_BASE - PAGE, [(GUEST_RAM, 2)]) == Error.INVALID_ARGS
    assert populate(host, early, 0, GUEST_BASE + extent, [(GUEST_RAM, 2)]) == 0
    finish(host)


def test_no_device_comes_while_a_vcpu_runs(host: Host) -> None:
    vmid = make_vm(host)
    first, second = host.start_cpus(2)
    host.x[0], host.x[1] = smc64(Call.RUN), vmid << 16
    below = host.hypercall(first, 0)
    host.memory.write_words(BUFFER, [DISTRIBUTOR, 0, 0x0800_0000, 0x1_0000, 0, 0])
    x = (ctypes.c_uint64 * 31).from_address(second + Context.offset("x"))
    x[0], x[1], x[2] = smc64(Call.CREATE_DEVICE), vmid, BUFFER
    assert host.hypercall(second, 0) == second
    assert ctypes.c_int64(x[0]).value == Error.INVALID_ARGS and host.vm(vmid).vgic.distributor_size == 0
    assert host.interrupt(below) == first
    x[0] = smc64(Call.CREATE_DEVICE)
    assert host.hypercall(second, 0) == second and x[0] == 0
    finish(host)


def test_devices(host: Host) -> None:
    frames = host.machine.free_frames
    vmid = make_vm(host)
    assert host.call(smc64(Call.IRQ_LINE), vmid << 16, 5, 1) == Error.INVALID_ARGS
    assert create_device(host, vmid, 7, 0x0800_0000, 0x1_0000) == Error.NOT_SUPPORTED
    assert create_device(host, vmid, DISTRIBUTOR, 0x0800_0000, 0x1_0000, flags=1) == Error.NOT_SUPPORTED
    assert create_device(host, vmid, DISTRIBUTOR, 0x0800_0000, 0x1_0000, attributes=8) == Error.NOT_SUPPORTED
    for base, size in ((1 << 40, 0x1_0000), (WORD & ~0xFFFF, 0x2_0000), (0x0800_0000, 0), (0x0800_0001, 0x1_0000)):
        assert create_device(host, vmid, DISTRIBUTOR, base, size) == Error.INVALID_ARGS
    assert create_device(host, vmid, DISTRIBUTOR, 0x0800_0000, 0x1_0000) == OK
    assert create_device(host, vmid, DISTRIBUTOR, 0x0800_0000, 0x1_0000) == Error.INVALID_ARGS
    assert create_device(host, vmid, REDISTRIBUTOR, 0x080A_0000, 0x2_0000) == OK
    assert host.call(smc64(Call.IRQ_LINE), vmid << 16, 5, 1) == OK
    for vcpu, number, level in ((0, 5, 2), (2, 5, 1), (8, 5, 1), (0, WORD, 1), (0, 1020, 1)):
        assert host.call(smc64(Call.IRQ_LINE), vmid << 16 | vcpu, number, level) == Error.INVALID_ARGS
    host.good(Call.DESTROY_VM, vmid, 0)
    assert host.machine.free_frames == frames
