# SPDX-License-Identifier: Apache-2.0
"""Calls that take several turns (H2, H4, H5): what comes between them, and a host that lies about how far it came."""

from __future__ import annotations

import random

import pytest
from caller import BUFFER, GUEST_BASE, GUEST_RAM, Host, declare, finish, mail, make_vm
from el2 import BLOCK, FRAME_COUNT, PAGE

from gz.abi.calls import Call, smc64
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.errors import Error
from gz.core.work import Progress, Stage

GFN, PFN = GUEST_BASE // PAGE, GUEST_RAM // PAGE
BACKWARDS = [PFN + 511 - i for i in range(512)]
FORWARDS = [PFN + i for i in range(512)]
MAP_BLOCK = (smc64(Call.MAP_GUEST_BLOCK), 1, 0, GFN, 512)
PIECES_MAX = 60
MARK = 0xA5


@pytest.fixture(scope="module")
def compiled() -> Host:
    return Host()


@pytest.fixture
def host(compiled: Host) -> Host:
    compiled.reset()
    return compiled


def load(host: Host, arguments: tuple[int, ...]) -> None:
    for i in range(8):
        host.x[i] = arguments[i] if i < len(arguments) else 0


def pieces(host: Host, arguments: tuple[int, ...], most: int = PIECES_MAX) -> int:
    """So many turns of a call, or all that it takes; gives their number."""
    load(host, arguments)
    for number in range(1, most + 1):
        if host.piece():
            return number
    return most


def everything(host: Host, vmid: int) -> tuple[object, ...]:
    vm = host.vm(vmid)
    slots = [(slot.base, slot.page_count, slot.mapped) for slot in vm.slots]
    return host.owners(), host.mapped(vmid), host.free_frames, slots, vm.lent_count, vm.private_count, host.missing()


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize("pfns", [FORWARDS, BACKWARDS])
def test_a_block_takes_several_turns(host: Host, pfns: list[int], protected: bool) -> None:
    vmid = make_vm(host, protected=protected)
    mail(host, pfns)
    assert pieces(host, MAP_BLOCK) >= 5
    assert host.x[0] == 0
    assert host.mapped(vmid) == {GFN + i: pfn for i, pfn in enumerate(pfns)}
    assert host.missing() == (set(pfns) if protected else set())
    finish(host)


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize("pfns", [FORWARDS, BACKWARDS])
def test_a_call_is_never_taken_up_again(host: Host, pfns: list[int], protected: bool) -> None:
    """After any of its turns the VM ends, or the same call begins anew and another one gives it its pages."""
    for turns in range(1, PIECES_MAX):
        vmid = make_vm(host, protected=protected)
        mail(host, pfns)
        if pieces(host, MAP_BLOCK, turns) < turns:
            finish(host)
            return
        if turns % 2 == 0:
            assert host.call(smc64(Call.MAP_GUEST), vmid, 0, pfns[3], GFN + 3, 1) == 0
            assert host.call(*MAP_BLOCK) == 0
            assert host.mapped(vmid) == {GFN + i: pfn for i, pfn in enumerate(pfns)}
        finish(host)
        assert not host.missing()


@pytest.mark.parametrize("protected", [False, True])
def test_an_error_at_the_end_has_no_effect(host: Host, protected: bool) -> None:
    """M7: after many turns the last page turns out to be another VM's."""
    other = make_vm(host, BLOCK)
    for vcpu in range(2):
        host.good(Call.DESTROY_VCPU, other << 16 | vcpu)
    vmid = make_vm(host, protected=protected)
    host.good(Call.MAP_GUEST, other, 0, BACKWARDS[-1], GFN, 1)
    host.good(Call.MAP_GUEST, vmid, 0, BACKWARDS[100], GFN + 100, 1)
    before = everything(host, vmid)
    mail(host, BACKWARDS)
    load(host, (smc64(Call.MAP_GUEST_BLOCK), vmid, 0, GFN, 512))
    turns = 1
    while not host.piece():
        turns += 1
    assert host.x[0] == Error.INVALID_ARGS & (1 << 64) - 1 and turns > 10
    assert everything(host, vmid) == before
    finish(host)


def test_frames_that_do_not_suffice_come_back(compiled: Host) -> None:
    """M13: pages of many blocks, whose tables the host would have to get."""
    compiled.reset(frame_count=40)
    host = compiled
    vmid = make_vm(host, protected=True)
    before = everything(host, vmid)
    mail(host, [PFN + 512 * i for i in range(38)] + [PFN + 512 * i + 1 for i in range(38)])
    assert host.call(smc64(Call.MAP_GUEST_BLOCK), vmid, 0, GFN, 76) == Error.NO_MEMORY
    assert everything(host, vmid) == before
    finish(host)
    compiled.reset(FRAME_COUNT - 4)


@pytest.mark.parametrize("protected", [False, True])
@pytest.mark.parametrize("pfns", [FORWARDS, BACKWARDS])
def test_two_cpus_supply_the_same_block(host: Host, pfns: list[int], protected: bool) -> None:
    """H5: in turns; the first to come makes it valid, both have succeeded."""
    vmid = make_vm(host, protected=protected)
    mail(host, pfns)
    x: list[list[int]] = []
    for _ in range(2):
        load(host, MAP_BLOCK)
        x.append(list(host.x))
    waiting = [0, 1]
    for _ in range(2 * PIECES_MAX):
        for cpu in list(waiting):
            load(host, tuple(x[cpu][:8]))
            if host.piece():
                assert host.x[0] == 0
                waiting.remove(cpu)
            x[cpu] = list(host.x)
    assert not waiting
    assert host.mapped(vmid) == {GFN + i: pfn for i, pfn in enumerate(pfns)}
    assert host.vm(vmid).slots[0].mapped == host.vm(vmid).lent_count == 512
    finish(host)


@pytest.mark.parametrize("protected", [False, True])
def test_one_fails_where_another_succeeds(host: Host, protected: bool) -> None:
    """H5: the first takes back what both had reserved, the other one reserves it again."""
    vmid = make_vm(host, 6 * BLOCK, protected=protected)
    wrong = 400
    for bad_turns in range(1, 24):
        mail(host, BACKWARDS)
        good = MAP_BLOCK
        pieces(host, good, 9)
        token = host.x[0]
        mail(host, [*BACKWARDS[:wrong], 0, *BACKWARDS[wrong + 1 :]])
        bad = (smc64(Call.MAP_GUEST_BLOCK), vmid, 0, GFN, 512)
        pieces(host, bad, bad_turns)
        mail(host, BACKWARDS)
        load(host, (token, *good[1:]))
        while not host.piece():
            pass
        assert host.x[0] == 0
        mapped = host.mapped(vmid)
        assert mapped == {GFN + i: pfn for i, pfn in enumerate(BACKWARDS)}
        finish(host)
        vmid = make_vm(host, 6 * BLOCK, protected=protected)
    finish(host)


@pytest.mark.parametrize("protected", [False, True])
def test_a_slot_stays_while_a_call_is_under_way(host: Host, protected: bool) -> None:
    vmid = make_vm(host, protected=protected)
    mail(host, BACKWARDS)
    pieces(host, MAP_BLOCK, 2)
    token = host.x[0]
    assert declare(host, vmid, 0, GUEST_BASE + 64 * BLOCK, BLOCK) == Error.INVALID_ARGS
    if not protected:
        assert host.call(smc64(Call.ENABLE_CAP), vmid, Capability.PROTECTED_VM, ProtectedVm.PROTECT) != 0
    load(host, (token, *MAP_BLOCK[1:]))
    while not host.piece():
        pass
    assert host.x[0] == 0 and len(host.mapped(vmid)) == 512
    finish(host)


def test_another_vm_of_the_same_number(host: Host) -> None:
    """The VM ends between two turns: its pages go back once, the next VM gets none, and its end is its own."""
    for call in (MAP_BLOCK, (smc64(Call.DESTROY_VM), 1, 0)):
        vmid = make_vm(host)
        mail(host, BACKWARDS)
        if call is not MAP_BLOCK:
            assert host.call(*MAP_BLOCK) == 0
        assert pieces(host, call, 2) == 2
        token = host.x[0]
        finish(host)
        assert host.good(Call.CREATE_VM) == vmid
        load(host, (token, *call[1:]))
        while not host.piece():
            pass
        assert host.x[0] == Error.INVALID_ARGS & (1 << 64) - 1
        assert host.vm(vmid).used == 2
        finish(host)


@pytest.mark.parametrize("fails", [False, True])
def test_an_unannounced_slot_grows_when_all_of_it_is_there(host: Host, fails: bool) -> None:
    """G1: until then it cannot be declared elsewhere, nor is any of it a slot's."""
    vmid = host.good(Call.CREATE_VM)
    memory = host.memory
    memory.write32(BUFFER, 0)
    memory.write32(BUFFER + 4, 500)
    memory.write64(BUFFER + 8, 500)
    memory.write64(BUFFER + 16, GUEST_BASE)
    for i in range(500):
        memory.write64(BUFFER + 24 + 16 * i, GUEST_RAM + 2 * i * PAGE if i < 499 or not fails else 0)
        memory.write32(BUFFER + 32 + 16 * i, 1)
    arguments = (smc64(Call.SET_MEMREGION), vmid, 2 * PAGE, BUFFER)
    assert pieces(host, arguments, 4) == 4
    token = host.x[0]
    assert host.vm(vmid).slots[0].page_count == 0
    purpose = (smc64(Call.MEMREGION_PURPOSE), vmid, 0, BLOCK, 1)
    assert host.call(*purpose) == Error.INVALID_ARGS
    load(host, (token, *arguments[1:]))
    while not host.piece():
        pass
    status = host.x[0]
    assert (status == 0) != fails
    assert host.vm(vmid).slots[0].page_count == len(host.mapped(vmid)) == (0 if fails else 500)
    assert host.call(*purpose) == 0
    finish(host)


@pytest.mark.parametrize("turns", [1, 3, 9])
def test_an_unannounced_slot_of_a_vm_that_ends(host: Host, turns: int) -> None:
    vmid = host.good(Call.CREATE_VM)
    memory = host.memory
    memory.write32(BUFFER, 3)
    memory.write32(BUFFER + 4, 500)
    memory.write64(BUFFER + 8, 500)
    memory.write64(BUFFER + 16, GUEST_BASE)
    for i in range(500):
        memory.write64(BUFFER + 24 + 16 * i, GUEST_RAM + 2 * i * PAGE)
        memory.write32(BUFFER + 32 + 16 * i, 1)
    assert pieces(host, (smc64(Call.SET_MEMREGION), vmid, 2 * PAGE, BUFFER), turns) == turns
    finish(host)


@pytest.mark.parametrize("protected", [False, True])
def test_a_host_that_lies_about_how_far_it_came(host: Host, protected: bool) -> None:
    """H2: any progress, with any call, at any time. Nothing is lost, and what is valid was made so in all steps."""
    rng = random.Random(7)
    for _ in range(6):
        vmid = make_vm(host, protected=protected)
        mail(host, rng.choice([FORWARDS, BACKWARDS]))
        load(host, MAP_BLOCK)
        for _ in range(200):
            done = rng.choice([0, 1, rng.randrange(513), rng.randrange(1 << 20)])
            stage = rng.choice(list(Stage)) if rng.random() < 0.9 else rng.randrange(16)
            if rng.random() < 0.5:
                progress = Progress(DONE=done, MARK=MARK if rng.random() < 0.9 else 0, STAGE=stage)
                host.x[0] = MAP_BLOCK[0] | int(progress) << 32
            if host.piece():
                count = rng.choice([1, 5, 512])
                load(host, (*MAP_BLOCK[:3], GFN + rng.randrange(513 - count), count))
            if rng.random() < 0.05:
                mail(host, rng.choice([FORWARDS, BACKWARDS]))
        owners, pages = host.owners(), set(host.mapped(vmid).values())
        kind = "private" if protected else "lent"
        assert all(owners[pfn] == (kind, vmid) for pfn in pages)
        if protected:
            assert pages <= host.missing()
        finish(host)
        assert not host.missing()
