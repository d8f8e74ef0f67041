# SPDX-License-Identifier: Apache-2.0
"""Capability MEMORY_ACCESS: slots that a guest only reads or does not reach, and what its accesses there become."""

from __future__ import annotations

from typing import Any

import pytest
from caller import GUEST_BASE, GUEST_RAM, RUN_PAGE, WORD, Host, declare, finish, mail, make_vm, populate
from el2 import BLOCK, PAGE
from walker import leaves

import gz.core.faults as faults
import gz.core.frames as frames
import gz.core.stage2 as stage2
from gz.abi.calls import Call, smc64
from gz.abi.errors import Error
from gz.abi.exits import ExceptionCode, ExitReason
from gz.abi.memory import Access
from gz.arm64.syndrome import DataAbort, ExceptionClass, FaultStatus, syndrome
from gz.bits.annotation import type_of
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu
from gz.metal.values import view_at

MEMORY_ACCESS = 0x9281
READ_WRITE, READ_ONLY, NONE = 0, 1, 2
GFN, PFN = GUEST_BASE // PAGE, GUEST_RAM // PAGE
SLOT_PAGES = 4 * 512
ADJACENT = [PFN + i for i in range(512)]
SCATTERED = [PFN + 511 - i for i in range(512)]
VIRTUAL = 0xFFFF_0000_1234_5678
PERMISSION, TRANSLATION = FaultStatus.PERMISSION + 3, FaultStatus.TRANSLATION + 2


@pytest.fixture(scope="module")
def compiled() -> Host:
    return Host(faults.data, faults.instruction, frames.allocate)


@pytest.fixture
def host(compiled: Host) -> Host:
    compiled.reset()
    return compiled


def change(host: Host, vmid: int, access: int, slot: int = 0) -> int:
    """As the driver does; gives the number of calls."""
    at = calls = 0
    while at < SLOT_PAGES:
        following = host.good(Call.ENABLE_CAP, vmid, MEMORY_ACCESS, slot, access, at)
        assert following > at, "no way forward"
        at, calls = following, calls + 1
    assert at == SLOT_PAGES
    return calls


def map_block(host: Host, vmid: int, pfns: list[int], gfn: int = GFN) -> int:
    mail(host, pfns)
    return host.call(smc64(Call.MAP_GUEST_BLOCK), vmid, 0, gfn, len(pfns))


def permissions(host: Host, vmid: int) -> set[int]:
    """S2AP of all leaves."""
    vtcr, vttbr = host.machine.fn(stage2.vtcr)(), host.machine.fn(stage2.vttbr)(host.vm(vmid).stage2)
    return {attributes >> 6 & 3 for _, _, _, attributes in leaves(host.machine.memory.read64, vtcr, vttbr)}


def test_the_numbers() -> None:
    assert [*Access] == [READ_WRITE, READ_ONLY, NONE]


@pytest.mark.parametrize("pfns", [ADJACENT, SCATTERED, ADJACENT[:3]])
def test_a_slot_changes_and_changes_back(host: Host, pfns: list[int]) -> None:
    vmid = make_vm(host)
    free = host.free_frames
    entries = bytes(host.machine.entries().cast("B"))
    for access in (READ_ONLY, READ_WRITE, NONE, READ_ONLY, NONE):
        expected = {READ_ONLY: {1}, READ_WRITE: {3}}.get(access, set[int]())
        change(host, vmid, access)
        assert host.mapped(vmid) == {} and host.free_frames == free
        assert bytes(host.machine.entries().cast("B")) == entries, "the host has its pages back"
        host.good(Call.GET_STATISTICS, vmid)
        assert host.x[2] == 0 and host.vm(vmid).slots[0].mapped == 0
        assert map_block(host, vmid, pfns) == (0 if expected else Error.INVALID_ARGS)
        assert permissions(host, vmid) == expected
        if expected:
            assert [host.mapped(vmid)[GFN + i] for i in range(len(pfns))] == pfns
            assert map_block(host, vmid, pfns) == 0, "another vCPU was faster"
    finish(host)


def test_a_call_takes_a_block(host: Host) -> None:
    """So that interrupts do not wait."""
    vmid = make_vm(host)
    for block in range(3):
        assert map_block(host, vmid, [PFN + 512 * block + i for i in range(512)], GFN + 512 * block) == 0
    assert host.good(Call.ENABLE_CAP, vmid, MEMORY_ACCESS, 0, NONE, 0) == 512
    assert len(host.mapped(vmid)) == 1024
    assert host.good(Call.ENABLE_CAP, vmid, MEMORY_ACCESS, 0, NONE, 1024) == 1536
    assert {gfn - GFN for gfn in host.mapped(vmid)} == {*range(512, 1024)}
    assert change(host, vmid, NONE) == 2
    finish(host)


def test_translations_are_forgotten_before_pages_return(host: Host) -> None:
    vmid = make_vm(host)
    assert map_block(host, vmid, ADJACENT) == 0
    host.jit.clear_events()
    lent: list[int] = []
    host.jit.on_write("VTTBR_EL2", lambda value: lent.append(host.machine.entry(GUEST_RAM)))
    host.good(Call.ENABLE_CAP, vmid, MEMORY_ACCESS, 0, NONE, 0)
    host.jit.on_write("VTTBR_EL2", None)
    assert lent[0] and host.machine.entry(GUEST_RAM) == 0
    names = [event.name for event in host.jit.events]
    assert "tlbi vmalls12e1is" in names
    finish(host)


def test_part_of_a_block(host: Host) -> None:
    """What lies before the page to begin at stays."""
    vmid = make_vm(host)
    assert map_block(host, vmid, ADJACENT) == 0
    assert host.good(Call.ENABLE_CAP, vmid, MEMORY_ACCESS, 0, READ_ONLY, 100) == 512
    assert host.mapped(vmid) == {GFN + i: PFN + i for i in range(100)}
    finish(host)


def test_no_frame_to_split_a_block(host: Host) -> None:
    """Without effect."""
    vmid = make_vm(host)
    assert map_block(host, vmid, ADJACENT) == 0
    while host.free_frames:
        host.machine.fn(frames.allocate)()
    assert host.call(smc64(Call.ENABLE_CAP), vmid, MEMORY_ACCESS, 0, NONE, 100) == Error.NO_MEMORY
    assert len(host.mapped(vmid)) == 512 and host.vm(vmid).slots[0].access == READ_WRITE


@pytest.mark.parametrize(
    "slot, access, first",
    [(1, 1, 0), (9, 1, 0), (10, 1, 0), (WORD, 1, 0), (0, 3, 0), (0, WORD, 0), (0, 1, SLOT_PAGES), (0, 1, WORD)],
)
def test_nonsense_has_no_effect(host: Host, slot: int, access: int, first: int) -> None:
    vmid = make_vm(host)
    assert map_block(host, vmid, ADJACENT) == 0
    assert host.call(smc64(Call.ENABLE_CAP), vmid, MEMORY_ACCESS, slot, access, first) == Error.INVALID_ARGS
    assert len(host.mapped(vmid)) == 512 and permissions(host, vmid) == {3}
    assert host.call(smc64(Call.ENABLE_CAP), 0, MEMORY_ACCESS, 0, 1, 0) == Error.INVALID_ARGS
    finish(host)


def test_private_memory_stays_the_guests(host: Host) -> None:
    """The host neither takes it away nor makes it read-only."""
    vmid = make_vm(host, protected=True)
    assert map_block(host, vmid, ADJACENT) == 0
    for access in Access:
        assert host.call(smc64(Call.ENABLE_CAP), vmid, MEMORY_ACCESS, 0, access, 0) == Error.INVALID_ARGS
    assert len(host.mapped(vmid)) == 512 and not host.seen() & {*ADJACENT}
    finish(host)


@pytest.mark.parametrize("access", [READ_ONLY, NONE])
def test_memory_that_is_to_be_private_is_the_guests_from_the_start(host: Host, access: int) -> None:
    """Its stores to a read-only slot would go to the VMM, with what they carry."""
    vmid = make_vm(host)
    change(host, vmid, access)
    assert host.call(smc64(Call.ENABLE_CAP), vmid, 0xFFBADAB1, 2) == Error.INVALID_ARGS
    assert host.vm(vmid).protected == 0
    change(host, vmid, READ_WRITE)
    assert declare(host, vmid, 1, GUEST_BASE + 8 * BLOCK, BLOCK, 4) == 0
    host.good(Call.ENABLE_CAP, vmid, MEMORY_ACCESS, 1, access, 0)
    host.good(Call.ENABLE_CAP, vmid, 0xFFBADAB1, 2)
    finish(host)


@pytest.mark.parametrize("access", [READ_ONLY, NONE])
def test_a_handle_that_is_used_again_reaches_its_memory(host: Host, access: int) -> None:
    vmid = make_vm(host)
    change(host, vmid, access)
    host.good(Call.DESTROY_VM, vmid, 0)
    assert host.good(Call.CREATE_VM) == vmid
    assert populate(host, vmid, 0, GUEST_BASE, [(GUEST_RAM, 4)]) == 0, "by a driver that declares nothing"
    assert permissions(host, vmid) == {3}
    finish(host)


def test_a_new_slot_is_writable(host: Host) -> None:
    vmid = make_vm(host)
    change(host, vmid, NONE)
    assert declare(host, vmid, 0, GUEST_BASE + BLOCK, BLOCK) == 0
    assert map_block(host, vmid, ADJACENT, GFN + 512) == 0 and permissions(host, vmid) == {3}
    finish(host)


class Guest:
    """vCPU 0, whose stage 1 leads from VIRTUAL to the slot."""

    def __init__(self, host: Host, access: int) -> None:
        self.host, self.vmid = host, make_vm(host)
        change(host, self.vmid, access)
        self.vcpu: Any = view_at(type_of(Vcpu), host.vm(self.vmid).vcpus[0])
        for register in range(31):
            self.vcpu.context.x[register] = 0x1000 + register
        host.memory.fill(RUN_PAGE, PAGE, 0)
        registers = host.jit.sysregs
        registers.VBAR_EL1, registers.SPSR_EL2, registers.ELR_EL2 = 0x7000, 0x3C5, 0x4000
        registers.FAR_EL2 = VIRTUAL
        self.translated(GUEST_BASE + 0x5000)

    def translated(self, ipa: int, fault: bool = False) -> None:
        self.host.jit.sysregs.PAR_EL1 = ipa & ~(PAGE - 1) | (1 << 56) | int(fault)
        self.host.jit.sysregs.HPFAR_EL2 = ipa >> 12 << 4

    def fault(self, **fields: int) -> Outcome:
        iss = int(DataAbort(**{"ISV": 1, "SAS": 2, "SRT": 3, "WnR": 1, "DFSC": PERMISSION} | fields))
        return self.host.machine.fn(faults.data)(self.vcpu, syndrome(ExceptionClass.DATA_ABORT_LOWER, iss))

    def exit(self) -> tuple[int, ...]:
        """Reason, address, data, length, is_write."""
        memory = self.host.memory
        record = [memory.read64(RUN_PAGE + offset) for offset in (8, 16, 24)]
        return (int(self.vcpu.exit), *record, memory.read32(RUN_PAGE + 36) & 0xFF)

    @property
    def aborted(self) -> bool:
        return self.host.jit.sysregs.ELR_EL2 == 0x7200


def test_a_store_to_a_read_only_slot_is_the_vmms(host: Host) -> None:
    guest = Guest(host, READ_ONLY)
    answer = host.jit.sysregs.PAR_EL1
    host.jit.clear_events()
    assert guest.fault() == Outcome.LEAVE
    assert guest.exit() == (ExitReason.MMIO, GUEST_BASE + 0x5678, 0x1003, 4, 1)
    assert [event.value for event in host.jit.events if event.name == "at s1e1r"] == [VIRTUAL]
    assert answer == host.jit.sysregs.PAR_EL1, "the guest's own answer of AT"
    finish(host)


@pytest.mark.parametrize(
    "fields", [{"ISV": 0}, {"WnR": 0}, {"S1PTW": 1}, {"DFSC": FaultStatus.EXTERNAL}], ids=lambda fields: str(fields)
)
def test_what_no_vmm_serves_is_a_fault_of_the_guest(host: Host, fields: dict[str, int]) -> None:
    """Pairs and atomics, a walk that would update a descriptor, an external abort."""
    guest = Guest(host, READ_ONLY)
    assert guest.fault(**fields) == Outcome.RESUME and guest.aborted
    finish(host)


def test_permission_faults_elsewhere(host: Host) -> None:
    """In a slot that is writable, and where the core itself is read-only to the guest: stolen time."""
    guest = Guest(host, READ_WRITE)
    assert guest.fault() == Outcome.RESUME and guest.aborted
    guest.translated((1 << 40) - 0x1_0000)
    host.jit.sysregs.ELR_EL2 = 0x4000
    assert guest.fault() == Outcome.RESUME and guest.aborted
    finish(host)


def test_a_translation_that_is_gone_is_tried_again(host: Host) -> None:
    guest = Guest(host, READ_ONLY)
    guest.translated(GUEST_BASE, fault=True)
    assert guest.fault() == Outcome.RESUME and host.jit.sysregs.ELR_EL2 == 0x4000
    finish(host)


def test_cache_maintenance_is_left_out(host: Host) -> None:
    guest = Guest(host, READ_ONLY)
    assert guest.fault(CM=1, ISV=0) == Outcome.SKIP
    finish(host)


@pytest.mark.parametrize("access", [READ_WRITE, READ_ONLY])
def test_memory_that_is_missing_is_asked_for(host: Host, access: int) -> None:
    guest = Guest(host, access)
    assert guest.fault(DFSC=TRANSLATION) == Outcome.LEAVE
    assert (guest.vcpu.exit, host.memory.read32(RUN_PAGE + 8)) == (ExitReason.EXCEPTION, ExceptionCode.PAGE_FAULT)
    finish(host)


@pytest.mark.parametrize("write", [0, 1])
def test_a_slot_without_access_is_a_device(host: Host, write: int) -> None:
    guest = Guest(host, NONE)
    assert guest.fault(DFSC=TRANSLATION, WnR=write) == Outcome.LEAVE
    assert guest.exit() == (ExitReason.MMIO, GUEST_BASE + 0x5678, 0x1003 if write else 0, 4, write)
    finish(host)


def test_nothing_but_loads_and_stores_reaches_a_device(host: Host) -> None:
    guest = Guest(host, NONE)
    for fields in ({"ISV": 0}, {"S1PTW": 1}):
        host.jit.sysregs.ELR_EL2 = 0x4000
        assert guest.fault(DFSC=TRANSLATION, **fields) == Outcome.RESUME and guest.aborted
    host.jit.sysregs.ELR_EL2 = 0x4000
    iss = int(DataAbort(DFSC=TRANSLATION))
    fetch = syndrome(ExceptionClass.INSTRUCTION_ABORT_LOWER, iss)
    assert host.machine.fn(faults.instruction)(guest.vcpu, fetch) == Outcome.RESUME and guest.aborted
    finish(host)
