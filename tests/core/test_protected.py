# SPDX-License-Identifier: Apache-2.0
"""Protected VMs: whose memory is whose (M1, M2, M5, M8, M13, M16), registers (C1, C3, H7), the MMIO guard (H11)."""

from __future__ import annotations

import random
from typing import Any

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
from el2 import BLOCK, CORE, HIGH, HIGH_SIZE, LOW, PAGE

import gz.core.faults as faults
import gz.core.guest_calls as guest_calls
import gz.core.host as the_host
import gz.core.host_memory as host_memory
import gz.core.traps as traps
from gz.abi.calls import Call, smc64
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.errors import Error
from gz.abi.exits import ExceptionCode, ExitReason
from gz.abi.guest import VendorCall
from gz.abi.registers import BOOT_PSTATE
from gz.arm64.syndrome import DataAbort, ExceptionClass, FaultStatus, syndrome
from gz.bits.annotation import type_of
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu
from gz.core.work import EFFORT
from gz.metal.values import view_at

SHARE, UNSHARE, RELINQUISH = VendorCall.MEM_SHARE, VendorCall.MEM_UNSHARE, VendorCall.MEM_RELINQUISH
INVALID, UNSUPPORTED = -3 & WORD, -1 & WORD
GFN, PFN = GUEST_BASE // PAGE, GUEST_RAM // PAGE
ALL = {*range(LOW // PAGE, CORE // PAGE), *range(HIGH // PAGE, (HIGH + HIGH_SIZE) // PAGE)}
POOL_BASE = GUEST_BASE + 8 * BLOCK
X0, PC, PSTATE, SP_EL1 = (0x6030_0000_0010_0000 + index for index in (0, 64, 66, 68))


@pytest.fixture(scope="module")
def compiled() -> Host:
    changes = (host_memory.prepare, host_memory.withdraw, host_memory.give, host_memory.merge)
    return Host(guest_calls.call, faults.data, traps.hypercall, the_host.sync, *changes)


@pytest.fixture
def host(compiled: Host) -> Host:
    compiled.reset()
    return compiled


def vcpu_of(host: Host, vmid: int) -> Any:
    return view_at(type_of(Vcpu), host.vm(vmid).vcpus[0])


def guest_call(host: Host, vmid: int, *arguments: int) -> tuple[int, int]:
    """x0 and x1 of a guest's HVC."""
    vcpu = vcpu_of(host, vmid)
    for i in range(8):
        vcpu.context.x[i] = arguments[i] if i < len(arguments) else 0
    host.machine.fn(guest_calls.call)(vcpu)
    return vcpu.context.x[0], vcpu.context.x[1]


def map_block(host: Host, vmid: int, pfns: list[int], gfn: int = GFN) -> int:
    mail(host, pfns)
    return host.call(smc64(Call.MAP_GUEST_BLOCK), vmid, 0, gfn, len(pfns))


def protected(host: Host) -> int:
    return make_vm(host, protected=True)


def test_nobody_watches_its_exceptions(host: Host) -> None:
    """Neither asked for afterwards nor before."""
    vmid = protected(host)
    assert host.call(smc64(Call.ENABLE_CAP), vmid, Capability.WATCH_EXCEPTIONS, 1) == Error.NOT_SUPPORTED
    vmid = make_vm(host)
    assert host.call(smc64(Call.ENABLE_CAP), vmid, Capability.WATCH_EXCEPTIONS, 0x40) == Error.INVALID_ARGS
    host.good(Call.ENABLE_CAP, vmid, Capability.WATCH_EXCEPTIONS, 0x3F)
    assert host.vm(vmid).watched == 0x3F
    host.good(Call.ENABLE_CAP, vmid, Capability.PROTECTED_VM, ProtectedVm.PROTECT)
    assert host.vm(vmid).watched == 0


@pytest.mark.parametrize("shown", [[], [0], [7, 8, 511], [511]])
@pytest.mark.parametrize("pfns", [[PFN + i for i in range(512)], [PFN + 511 - i for i in range(512)]])
def test_what_the_host_sees_of_an_end_in_steps(host: Host, pfns: list[int], shown: list[int]) -> None:
    """M8: after each step whatever is the host's again is zero, but for what the guest had shown."""
    vmid = protected(host)
    host.machine.memory.fill(PFN * PAGE, BLOCK, 0xA5)
    assert map_block(host, vmid, pfns) == 0
    for index in shown:
        assert guest_call(host, vmid, SHARE, (GFN + index) * PAGE, 1) == (0, 1)
    open_pages = {pfns[index] for index in shown}
    steps = 0
    while host.call(smc64(Call.DESTROY_VM), vmid, 512) == Error.BUSY:
        steps += 1
        back = host.seen() & {*pfns} - open_pages
        assert all(host.machine.memory.read(pfn * PAGE, PAGE) == bytes(PAGE) for pfn in back)
        assert host.call(smc64(Call.MAP_GUEST), vmid, 0, PFN, GFN, 1) == Error.INVALID_ARGS
    assert steps >= 12
    assert host.seen() == ALL
    finish(host)


@pytest.mark.parametrize("pfns", [[PFN + i for i in range(512)], [PFN + 2 * i for i in range(512)], [PFN + 3]])
def test_memory_is_private_until_it_comes_back_as_zeros(host: Host, pfns: list[int]) -> None:
    """M1, M8."""
    vmid = protected(host)
    for pfn in pfns:
        host.machine.memory.fill(pfn * PAGE, PAGE, 0xA5)
    assert host.seen() == ALL
    host.jit.clear_events()
    assert map_block(host, vmid, pfns) == 0
    names = [event.name for event in host.jit.events]
    assert names.index("tlbi vmalls12e1is") < names.index("dc civac"), "a late write of the host's"
    assert host.seen() == ALL - {*pfns}
    assert map_block(host, vmid, pfns) == 0  # the same again
    assert [host.mapped(vmid)[GFN + i] for i in range(len(pfns))] == pfns
    assert host.machine.memory.read(pfns[0] * PAGE, PAGE) == b"\xa5" * PAGE, "what the VMM loaded is there"
    host.good(Call.GET_STATISTICS, vmid)
    assert host.x[2] == 0
    host.jit.clear_events()
    while host.call(smc64(Call.DESTROY_VM), vmid, 128) == Error.BUSY:
        pass
    cleaned = {event.value & ~(PAGE - 1) for event in host.jit.events if event.name == "dc civac"}
    assert len(cleaned) == len(pfns)
    assert host.seen() == ALL
    assert all(host.machine.memory.read(pfn * PAGE, PAGE) == bytes(PAGE) for pfn in pfns)
    finish(host)


def test_bounce_pool_and_later_regions_stay_shared(host: Host) -> None:
    vmid = protected(host)
    for slot, purpose in ((1, 4), (2, 0)):
        base = POOL_BASE + slot * BLOCK
        assert declare(host, vmid, slot, base, BLOCK, purpose) == 0
        host.good(Call.MAP_GUEST, vmid, slot, PFN + slot, base // PAGE, 1)
        assert guest_call(host, vmid, SHARE, base)[0] == INVALID
        assert guest_call(host, vmid, UNSHARE, base)[0] == INVALID
    assert host.seen() == ALL
    assert declare(host, vmid, 1, POOL_BASE + BLOCK, BLOCK, 1) == Error.INVALID_ARGS
    assert declare(host, vmid, 0, GUEST_BASE, 4 * BLOCK, 0) == Error.INVALID_ARGS, "private memory for ever"
    finish(host)


def test_private_pages_serve_for_nothing_else(host: Host) -> None:
    """M5: a second VM, a second address, the core's own use."""
    vmid = protected(host)
    other = host.good(Call.CREATE_VM)
    assert declare(host, other, 0, 0, BLOCK) == 0
    host.good(Call.MAP_GUEST, vmid, 0, PFN, GFN, 1)
    before = bytes(host.machine.entries().cast("B"))
    assert host.call(smc64(Call.MAP_GUEST), vmid, 0, PFN, GFN + 1, 1) == Error.INVALID_ARGS
    assert host.call(smc64(Call.MAP_GUEST), other, 0, PFN, 0, 1) == Error.INVALID_ARGS
    assert host.call(smc64(Call.CREATE_VCPU), other << 16, GUEST_RAM) == Error.INVALID_ARGS
    assert host.call(smc64(Call.SET_MEMREGION), other, 2 * PAGE, GUEST_RAM) == Error.INVALID_ARGS
    assert host.call(smc64(Call.MAP_GUEST), vmid, 0, MAILBOX // PAGE, GFN + 1, 1) == Error.INVALID_ARGS
    pfns = [PFN + 8 + i for i in range(512)]
    for wrong in (PFN, CORE // PAGE, MAILBOX // PAGE, WORD):
        assert map_block(host, vmid, [*pfns[:300], wrong, *pfns[301:]], GFN + 512) == Error.INVALID_ARGS
    assert bytes(host.machine.entries().cast("B")) == before
    assert host.seen() == ALL - {PFN}
    finish(host)


@pytest.mark.parametrize("count", range(9, 20))
def test_frames_run_out(host: Host, count: int) -> None:
    """M13: an error without effect wherever it happens, and everything comes back."""
    host.reset(frame_count=count)
    vmid = host.good(Call.CREATE_VM)
    host.good(Call.ENABLE_CAP, vmid, 0x9201, BLOCK, MAILBOX)
    assert declare(host, vmid, 0, GUEST_BASE, 4 * BLOCK) == 0
    if host.call(smc64(Call.ENABLE_CAP), vmid, 0xFFBADAB1, 2) != 0:
        return finish(host)
    mapped: dict[int, int] = {}
    failed = False
    for block in range(8):
        pfns = [PFN + block * 1024 + 3 * (i % 4) + i // 4 * 512 for i in range(8)]
        gfn = GFN + (block % 4) * 512 + block // 4 * 8
        free = host.machine.free_frames
        status = map_block(host, vmid, pfns, gfn)
        assert status in (0, Error.NO_MEMORY)
        if status == 0:
            mapped |= dict(zip(range(gfn, gfn + 8), pfns, strict=True))
        else:
            failed = True
            assert host.machine.free_frames == free
        assert host.mapped(vmid) == mapped
        assert host.seen() == ALL - {*mapped.values()}
    assert failed or count > 15
    return finish(host)


def test_protection_comes_first_or_never(host: Host) -> None:
    vmid = make_vm(host)
    host.good(Call.MAP_GUEST, vmid, 0, PFN, GFN, 1)
    assert host.call(smc64(Call.ENABLE_CAP), vmid, 0xFFBADAB1, 2) == Error.INVALID_ARGS
    host.good(Call.DESTROY_VM, vmid, 0)
    vmid = make_vm(host)
    host.good(Call.RUN, vmid << 16)
    assert host.call(smc64(Call.ENABLE_CAP), vmid, 0xFFBADAB1, 2) == Error.INVALID_ARGS
    finish(host)


def test_registers_are_the_start_of_the_boot_vcpu_alone(host: Host) -> None:
    """C1, C3, H7."""
    vmid = make_vm(host)
    boot, other = vmid << 16, vmid << 16 | 1
    for register in (X0 + 2 * 20, SP_EL1, X0 + 2 * 5, PC):
        host.good(Call.SET_ONE_REG, boot, register, 0x1234)
        host.good(Call.SET_ONE_REG, other, register, 0x1234)
    host.good(Call.ENABLE_CAP, vmid, 0xFFBADAB1, 2)
    host.good(Call.ENABLE_CAP, vmid, 0xFFBADAB1, 2)
    context = vcpu_of(host, vmid).context
    assert (context.elr, context.x[5], context.x[20], context.spsr) == (0x1234, 0x1234, 0, BOOT_PSTATE)
    assert not any(context.el1[i] for i in range(len(context.el1)) if context.el1[i] == 0x1234)
    second = view_at(type_of(Vcpu), host.vm(vmid).vcpus[1]).context
    assert second.elr == 0 and not any(second.x)
    for register, value in ((PC, GUEST_BASE), *((X0 + 2 * i, i) for i in range(8)), (PSTATE, BOOT_PSTATE)):
        host.good(Call.SET_ONE_REG, boot, register, value)
        assert host.good(Call.GET_ONE_REG, boot, register) == value
        expected = 0 if register == PSTATE else Error.NOT_SUPPORTED  # clients set all vCPUs' to what it is
        assert host.call(smc64(Call.SET_ONE_REG), other, register, value) == expected
        assert host.call(smc64(Call.GET_ONE_REG), other, register) == Error.NOT_SUPPORTED
    assert host.call(smc64(Call.SET_ONE_REG), boot, PSTATE, 0x3C4) == Error.INVALID_ARGS
    for register in (X0 + 16, X0 + 60, SP_EL1):
        assert host.call(smc64(Call.SET_ONE_REG), boot, register, 1) == Error.NOT_SUPPORTED
    host.good(Call.RUN, boot)
    for register in (PC, PSTATE, X0, X0 + 60):
        assert host.call(smc64(Call.SET_ONE_REG), boot, register, BOOT_PSTATE) == Error.NOT_SUPPORTED
        assert host.call(smc64(Call.GET_ONE_REG), boot, register) == Error.NOT_SUPPORTED
        assert host.x[1] == boot, "no register in an answer"
    host.good(Call.DESTROY_VCPU, boot)
    assert host.call(smc64(Call.CREATE_VCPU), boot, RUN_PAGE) == Error.INVALID_ARGS
    finish(host)


def test_features_of_both_kinds(host: Host) -> None:
    plain, vmid = make_vm(host), host.good(Call.CREATE_VM)
    host.good(Call.ENABLE_CAP, vmid, 0xFFBADAB1, 2)
    host.good(Call.CREATE_VCPU, vmid << 16, LOW + 30 * PAGE)
    assert guest_call(host, plain, VendorCall.FEATURES)[0] == 1 << 0 | 1 << 1 | 1 << 2 | 1 << 9
    assert vcpu_of(host, plain).context.x[3] == 0
    assert guest_call(host, vmid, VendorCall.FEATURES)[0] == 0xFFF
    assert vcpu_of(host, vmid).context.x[3] == 1 << 30
    assert guest_call(host, plain, VendorCall.HYP_MEMINFO) == (PAGE, 0)
    assert guest_call(host, vmid, VendorCall.HYP_MEMINFO) == (PAGE, 1)
    assert guest_call(host, vmid, VendorCall.MMIO_GUARD_INFO) == (PAGE, 1)
    assert guest_call(host, vmid, VendorCall.MMIO_GUARD_ENROLL)[0] == 0
    for function in (*range(VendorCall.MEM_SHARE, VendorCall.MEM_RELINQUISH), VendorCall.MEM_PRIVATE):
        assert guest_call(host, plain, function, GUEST_BASE)[0] == UNSUPPORTED
        assert guest_call(host, vmid, function, GUEST_BASE, 0, 1)[0] == INVALID


def test_ranges_are_shown_and_hidden(host: Host) -> None:
    vmid = protected(host)
    pfns = [PFN + i for i in range(512)]
    assert map_block(host, vmid, pfns) == 0
    assert guest_call(host, vmid, SHARE, GUEST_BASE + 7 * PAGE) == (0, 1)
    assert host.seen() == ALL - {*pfns} | {PFN + 7}
    assert guest_call(host, vmid, SHARE, GUEST_BASE, 512) == (0, 7)  # stops where one is shared already
    assert guest_call(host, vmid, SHARE, GUEST_BASE + 7 * PAGE, 2)[0] == INVALID
    done = 8
    while done < 512:  # the next block is not there yet
        status, count = guest_call(host, vmid, SHARE, GUEST_BASE + done * PAGE, 4096)
        done += count
        assert status == 0 and (10 < count < 64 or done == 512)  # what can be done at once
    assert done == 512
    assert host.seen() == ALL
    host.good(Call.GET_STATISTICS, vmid)
    assert host.x[2] == 512 * PAGE
    host.jit.clear_events()
    assert guest_call(host, vmid, UNSHARE, GUEST_BASE + PAGE, 3) == (0, 3)
    assert "tlbi vmalls12e1is" in [event.name for event in host.jit.events]
    assert host.seen() == ALL - {PFN + 1, PFN + 2, PFN + 3}
    host.jit.clear_events()
    assert guest_call(host, vmid, UNSHARE, GUEST_BASE + 5 * PAGE) == (0, 1)
    names = [event.name for event in host.jit.events]
    assert names.count("tlbi vmalls12e1is") == 1, "no block is divided for this one: it is the page that is forgotten"
    assert guest_call(host, vmid, SHARE, GUEST_BASE + 5 * PAGE) == (0, 1)
    assert host.machine.memory.read(GUEST_RAM, 8 * PAGE) is not None
    wrong = [(GUEST_BASE + 1, 1), (1 << 40, 1), (WORD - 4095, 2), ((1 << 40) - PAGE, 2), (0, 1)]
    wrong += [(GUEST_BASE + PAGE, count) for count in (WORD, 1 << 52, ((1 << 40) - GUEST_BASE) // PAGE)]
    for address, count in wrong:
        assert guest_call(host, vmid, SHARE, address, count)[0] == INVALID
        assert guest_call(host, vmid, UNSHARE, address, count)[0] == INVALID
    assert guest_call(host, vmid, UNSHARE, GUEST_BASE + PAGE)[0] == INVALID
    finish(host)


def test_a_guest_learns_what_is_private(host: Host) -> None:
    """Whatever is mapped; and what it learnt stays true."""
    vmid = protected(host)
    end = GUEST_BASE + 4 * BLOCK
    assert declare(host, vmid, 1, end, BLOCK, 2) == 0
    assert declare(host, vmid, 2, end + BLOCK, BLOCK, 4) == 0
    assert declare(host, vmid, 3, end + 2 * BLOCK, BLOCK, 1) == 0
    private = VendorCall.MEM_PRIVATE
    host.good(Call.RUN, vmid << 16)
    for base, count in ((GUEST_BASE, 1), (GUEST_BASE, 2560), (end - PAGE, 2), (end + 2 * BLOCK, 512)):
        assert guest_call(host, vmid, private, base, count)[0] == 0
    wrong = [(GUEST_BASE, 2561), (GUEST_BASE - PAGE, 2), (end + BLOCK, 1), (end + 2 * BLOCK, 513), (GUEST_BASE + 8, 1)]
    wrong += [(GUEST_BASE, 0), (GUEST_BASE, WORD), (GUEST_BASE, 1 << 52), (WORD & -PAGE, 1), (1 << 40, 1)]
    for base, count in wrong:
        assert guest_call(host, vmid, private, base, count)[0] == INVALID, hex(base)
    assert guest_call(host, vmid, private, GUEST_BASE, 1, 1)[0] == INVALID
    memory = host.machine.memory
    for base, size, purpose in ((end + 8 * BLOCK, BLOCK, 1), (end, BLOCK // 2, 2), (end, BLOCK, 0)):
        host.good(Call.MEMREGION_PURPOSE, vmid, base, size, purpose)
        memory.write32(BUFFER, 1)
        memory.write64(BUFFER + 8, size // PAGE)
        memory.write64(BUFFER + 16, base)
        assert host.call(smc64(Call.SET_MEMREGION), vmid, 2 * PAGE, BUFFER) == Error.INVALID_ARGS
    finish(host)


def test_a_page_that_is_not_there_yet_is_asked_for(host: Host) -> None:
    vmid = protected(host)
    vcpu = vcpu_of(host, vmid)
    vcpu.context.x[0], vcpu.context.x[1], vcpu.context.x[2], vcpu.context.x[3] = SHARE, GUEST_BASE + PAGE, 0, 0
    host.jit.sysregs.ELR_EL2 = 0x1004
    assert host.machine.fn(traps.hypercall)(vcpu, 0) == Outcome.LEAVE
    assert host.jit.sysregs.ELR_EL2 == 0x1000
    assert vcpu.exit == ExitReason.EXCEPTION and vcpu.context.x[0] == SHARE
    assert host.machine.memory.read32(RUN_PAGE + 8) == ExceptionCode.PAGE_FAULT


@pytest.mark.parametrize("shown", [False, True])
def test_what_a_guest_relinquishes_is_zeros(host: Host, shown: bool) -> None:
    """M16."""
    vmid = protected(host)
    pfns = [PFN + i for i in range(512)]
    assert map_block(host, vmid, pfns) == 0
    host.machine.memory.fill(GUEST_RAM, 3 * PAGE, 0x5A)
    if shown:
        assert guest_call(host, vmid, SHARE, GUEST_BASE + PAGE) == (0, 1)
    assert guest_call(host, vmid, RELINQUISH, GUEST_BASE + PAGE)[0] == 0
    assert host.machine.memory.read(GUEST_RAM, 3 * PAGE) == b"\x5a" * PAGE + bytes(PAGE) + b"\x5a" * PAGE
    assert host.seen() == ALL - {*pfns} | {PFN + 1}
    assert guest_call(host, vmid, RELINQUISH, GUEST_BASE + PAGE)[0] == INVALID
    assert guest_call(host, vmid, SHARE, GUEST_BASE + PAGE)[0] == SHARE  # asks for a new one
    host.good(Call.MAP_GUEST, vmid, 0, PFN + 3000, GFN + 1, 1)
    assert host.seen() == ALL - {*pfns, PFN + 3000} | {PFN + 1}
    finish(host)


def test_no_part_of_a_page_is_relinquished(host: Host) -> None:
    """Nor does the host's stage 2 change for it."""
    vmid = protected(host)
    assert map_block(host, vmid, [PFN + i for i in range(512)]) == 0
    tables = host.jit.storage("gz.core.host_memory.HOST").frames
    assert guest_call(host, vmid, RELINQUISH, GUEST_BASE + PAGE + 8)[0] == INVALID
    assert host.jit.storage("gz.core.host_memory.HOST").frames == tables
    finish(host)


def test_memory_that_nobody_announced_is_not_for_a_protected_vm(host: Host) -> None:
    """No call said whether it is private: it would be the host's."""
    vmid = host.good(Call.CREATE_VM)
    host.good(Call.ENABLE_CAP, vmid, 0xFFBADAB1, 2)
    assert populate(host, vmid, 0, GUEST_BASE, [(GUEST_RAM, 4)]) == Error.INVALID_ARGS
    assert host.mapped(vmid) == {}
    finish(host)


def test_exits_show_no_more_than_they_need(host: Host) -> None:
    """C1: x2 to x7 of a call stay in the core."""
    vmid = protected(host)
    host.good(Call.MAP_GUEST, vmid, 0, PFN, GFN, 1)
    vcpu = vcpu_of(host, vmid)
    for i in range(8):
        vcpu.context.x[i] = 0x5EC0 + i
    vcpu.context.x[0], vcpu.context.x[1] = VendorCall.PTP, 0
    assert host.machine.fn(guest_calls.call)(vcpu) == Outcome.LEAVE
    args = [host.machine.memory.read64(RUN_PAGE + 8 + 8 * i) for i in range(8)]
    assert args == [VendorCall.PTP, 0, 0, 0, 0, 0, 0, 0]


UART = 0x0900_0000


def touch(host: Host, vmid: int, address: int) -> Outcome:
    registers = host.jit.sysregs
    registers.FAR_EL2, registers.HPFAR_EL2 = address, address >> 12 << 4
    registers.SPSR_EL2 = 0x3C5
    iss = int(DataAbort(ISV=1, SAS=2, SRT=3, WnR=1, DFSC=FaultStatus.TRANSLATION + 3))
    return host.machine.fn(faults.data)(vcpu_of(host, vmid), syndrome(ExceptionClass.DATA_ABORT_LOWER, iss))


def test_unguarded_device_access_is_a_fault_of_the_guest(host: Host) -> None:
    """H11."""
    vmid = protected(host)
    host.jit.sysregs.VBAR_EL1 = 0x7000
    vcpu_of(host, vmid).context.x[3] = 0x5EC3E7
    assert touch(host, vmid, UART) == Outcome.RESUME
    assert host.jit.sysregs.ELR_EL2 == 0x7200
    assert host.machine.memory.read64(RUN_PAGE + 8 + 8) != 0x5EC3E7
    assert guest_call(host, vmid, VendorCall.MMIO_GUARD_MAP, UART)[0] == 0
    assert touch(host, vmid, UART + 4) == Outcome.LEAVE
    assert touch(host, vmid, UART + PAGE) == Outcome.RESUME
    assert guest_call(host, vmid, VendorCall.MMIO_GUARD_MAP, UART)[0] == 0, "two drivers of one page"
    assert guest_call(host, vmid, VendorCall.MMIO_GUARD_UNMAP, UART)[0] == 0
    assert guest_call(host, vmid, VendorCall.MMIO_GUARD_UNMAP, UART)[0] == 0
    assert touch(host, vmid, UART) == Outcome.RESUME
    for address in (GUEST_BASE, UART + 1, 1 << 40, WORD):
        assert guest_call(host, vmid, VendorCall.MMIO_GUARD_MAP, address)[0] == INVALID
    plain = host.good(Call.CREATE_VM)
    host.good(Call.CREATE_VCPU, plain << 16, LOW + 30 * PAGE)
    assert touch(host, plain, UART) == Outcome.LEAVE
    finish(host)


def test_ranges_of_devices(host: Host) -> None:
    """As Android's kernels map them: as much as goes at once, and then the rest."""
    vmid = protected(host)
    map_range, unmap_range = VendorCall.MMIO_RGUARD_MAP, VendorCall.MMIO_RGUARD_UNMAP
    assert guest_call(host, vmid, map_range, UART, 3) == (0, 3)
    assert guest_call(host, vmid, map_range, UART + PAGE, 0) == (0, 1)
    assert [touch(host, vmid, UART + page * PAGE) == Outcome.LEAVE for page in range(-1, 4)] == [
        False,
        *[True] * 3,
        False,
    ]
    assert guest_call(host, vmid, unmap_range, UART + PAGE, 1) == (0, 1)
    assert touch(host, vmid, UART + PAGE) == Outcome.RESUME
    status, count = guest_call(host, vmid, map_range, 0x3F00_0000, 4096)
    assert status == 0 and 8 < count < 512
    assert guest_call(host, vmid, map_range, GUEST_BASE - 2 * PAGE, 8) == (0, 2), "memory is no device"
    assert guest_call(host, vmid, map_range, (1 << 40) - PAGE, WORD) == (0, 1)
    for address, count, third in ((GUEST_BASE, 8, 0), (UART + 4, 1, 0), (1 << 40, 1, 0), (UART, 1, 1)):
        assert guest_call(host, vmid, map_range, address, count, third)[0] == INVALID
    finish(host)


def test_guard_keeps_any_set_of_pages(host: Host) -> None:
    vmid = protected(host)
    model: set[int] = set()
    chance = random.Random(11)
    for step in range(6000):
        page = chance.randrange(64) if step < 4000 else 2 * chance.randrange(600)
        address = UART + page * PAGE
        if chance.random() < 0.5:
            status = guest_call(host, vmid, VendorCall.MMIO_GUARD_MAP, address)[0]
            if status == 0:
                model.add(page)
            else:
                assert page not in model and host.machine.memory.read64(host.vm(vmid).guard + 8) == 255
        else:
            status = guest_call(host, vmid, VendorCall.MMIO_GUARD_UNMAP, address)[0]
            if status == 0:
                model.discard(page)
            else:
                assert page in model and host.machine.memory.read64(host.vm(vmid).guard + 8) == 255
        if step % 50 == 0:
            for probe in range(0, 1200, 7):
                assert (touch(host, vmid, UART + probe * PAGE) == Outcome.LEAVE) == (probe in model)
    finish(host)


@pytest.mark.parametrize("seed", range(3))
def test_random_lives_of_pages(host: Host, seed: int) -> None:
    """Two protected VMs and one that is not fight for pages; after every step the host sees just what it should."""
    chance = random.Random(seed)
    vmids = [host.good(Call.CREATE_VM) for _ in range(3)]
    mapped: dict[int, dict[int, int]] = {vmid: {} for vmid in vmids}
    hidden: set[int] = set()

    def start(vmid: int) -> None:
        host.good(Call.CREATE_VCPU, vmid << 16, LOW + (8 + 2 * vmid) * PAGE)
        host.good(Call.ENABLE_CAP, vmid, 0x9201, BLOCK, LOW + (30 + vmid) * PAGE)
        assert declare(host, vmid, 0, GUEST_BASE, 2 * BLOCK) == 0
        if vmid != vmids[2]:
            host.good(Call.ENABLE_CAP, vmid, 0xFFBADAB1, 2)

    for vmid in vmids:
        start(vmid)
    for step in range(2500):
        vmid = chance.choice(vmids)
        secret = vmid != vmids[2]
        own = mapped[vmid]
        gfn = GFN + chance.choice((chance.randrange(16), chance.randrange(1024)))
        address = gfn * PAGE
        match chance.choice(("map", "block", "show", "show", "hide", "relinquish", "end")):
            case "map":
                pfn, count = PFN + chance.randrange(1024), chance.choice((1, 2, 5))
                pairs = {gfn + i: pfn + i for i in range(count)}
                taken = {p for pages in mapped.values() for p in pages.values()}
                good = gfn + count <= GFN + 1024 and all(
                    own.get(g) == p or (g not in own and p not in taken) for g, p in pairs.items()
                )
                assert (host.call(smc64(Call.MAP_GUEST), vmid, 0, pfn, gfn, count) == 0) == good
                if good:
                    hidden |= {p for g, p in pairs.items() if secret and g not in own}
                    own |= pairs
            case "block":
                base, first = GFN + 512 * chance.randrange(2), PFN + 512 * chance.randrange(2)
                taken = {p for pages in mapped.values() for p in pages.values()}
                good = all(
                    own.get(base + i) == first + i or (base + i not in own and first + i not in taken)
                    for i in range(512)
                )
                host.machine.memory.write_words(LOW + (30 + vmid) * PAGE, [first + i for i in range(512)])
                assert (host.call(smc64(Call.MAP_GUEST_BLOCK), vmid, 0, base, 512) == 0) == good
                if good:
                    hidden |= {first + i for i in range(512) if secret and base + i not in own}
                    own |= {base + i: first + i for i in range(512)}
            case "show" | "hide" as what:
                count, done = chance.choice((1, 3, 40, 512)), 0
                while done < count and gfn + done in own and secret:
                    pfn = own[gfn + done]
                    if (pfn in hidden) != (what == "show"):
                        break
                    hidden ^= {pfn}
                    done += 1
                x0 = given = 0
                while x0 == 0 and given < count:
                    function = SHARE if what == "show" else UNSHARE
                    x0, some = guest_call(host, vmid, function, address + given * PAGE, count - given)
                    given += some if x0 == 0 else 0
                assert given == done and (x0 == 0) == (done == count)
            case "relinquish":
                x0, _ = guest_call(host, vmid, RELINQUISH, address)
                assert (x0 == 0) == (gfn in own)
                hidden.discard(own.pop(gfn, 0))
            case "end" if chance.random() < 0.1:
                host.good(Call.DESTROY_VM, vmid, 0)
                assert host.good(Call.CREATE_VM) == vmid
                start(vmid)
                hidden -= {*own.values()}
                own.clear()
            case "end":
                pass
        if step % 10 == 0:
            assert host.seen() == ALL - hidden
            assert host.mapped(vmid) == own
    finish(host)


def test_tables_that_were_prepared_stay(host: Host) -> None:
    """Between the preparation and the change another CPU's pages of the same block come back."""
    prepare, withdraw, give, merge = map(
        host.machine.fn, (host_memory.prepare, host_memory.withdraw, host_memory.give, host_memory.merge)
    )
    work = host.vm(1).work
    for other in (GUEST_RAM, GUEST_RAM + 5 * PAGE, GUEST_RAM + 511 * PAGE):
        mine = GUEST_RAM + 7 * PAGE
        work.effort = EFFORT
        assert prepare(work, other, PAGE) == prepare(work, mine, PAGE) == 0
        withdraw(other, PAGE)
        give(other, PAGE)
        withdraw(mine, PAGE)
        assert host.seen() == ALL - {mine // PAGE}
        give(mine, PAGE)
        assert prepare(work, mine, PAGE) == 0
        merge(mine)
        assert host.seen() == ALL
    finish(host)


EL0, EL1 = 0x3C0, 0x3C5
LOWER, UPPER = 0x7000_1000, 0xFFFF_0000_7000_1000


@pytest.mark.parametrize(
    "pstate, address, status",
    [
        (EL0, LOWER, FaultStatus.EXTERNAL),  # the process dies
        (EL1, LOWER, FaultStatus.ALIGNMENT),  # its system call fails
        (EL1, UPPER, FaultStatus.EXTERNAL),
    ],
)
def test_what_a_host_gets_for_a_private_page(host: Host, pstate: int, address: int, status: FaultStatus) -> None:
    vmid = protected(host)
    host.good(Call.MAP_GUEST, vmid, 0, PFN, GFN, 1)
    registers = host.jit.sysregs
    for write in (0, 1):
        registers.ESR_EL2 = syndrome(
            ExceptionClass.DATA_ABORT_LOWER, int(DataAbort(WnR=write, DFSC=FaultStatus.TRANSLATION + 3))
        )
        registers.FAR_EL2, registers.HPFAR_EL2, registers.SPSR_EL2 = address, PFN << 4, pstate
        assert host.machine.fn(the_host.sync)(host.context) is not None
        got = DataAbort(registers.ESR_EL1 & 0x1FF_FFFF)
        assert (got.DFSC, got.WnR, registers.FAR_EL1) == (status, write, address)
    finish(host)
