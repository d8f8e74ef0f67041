# SPDX-License-Identifier: Apache-2.0
"""What must be refused without effect wherever a page can be named (M6, M7, H3), and what a new VM inherits (M11)."""

from __future__ import annotations

import pytest
from caller import GUEST_BASE, GUEST_RAM, MAILBOX, WORD, Host, declare, finish, mail, make_vm, populate
from el2 import BLOCK, CORE, FRAMES, HIGH, HIGH_SIZE, LOW, LOW_SIZE, PAGE

import gz.core.vm as vms
from gz.abi.calls import Call, smc64
from gz.abi.errors import Error

GFN, PFN = GUEST_BASE // PAGE, GUEST_RAM // PAGE
#: Devices, a hole, the core's image and frames, the doorbell, behind all RAM and all addresses.
NOT_HOST_RAM = [0, 0x0900_0000, HIGH - PAGE, CORE, FRAMES, LOW + LOW_SIZE - PAGE, LOW + LOW_SIZE, HIGH + HIGH_SIZE]
NOT_A_PAGE = [GUEST_RAM + 8, GUEST_RAM + PAGE - 1, 1 << 48, WORD, WORD & ~(PAGE - 1)]
OTHERS = [GUEST_RAM + 700 * PAGE, GUEST_RAM + 900 * PAGE]  # lent to a guest, a protected guest's own
VCPU_CALLS = (Call.CREATE_VCPU, Call.DESTROY_VCPU, Call.RUN, Call.GET_ONE_REG, Call.SET_ONE_REG, Call.IRQ_LINE)


@pytest.fixture(scope="module")
def compiled() -> Host:
    return Host()


@pytest.fixture
def host(compiled: Host) -> Host:
    compiled.reset()
    return compiled


@pytest.mark.parametrize("protect", [False, True])
@pytest.mark.parametrize("address", [*NOT_HOST_RAM, *NOT_A_PAGE, *OTHERS])
def test_pages_that_are_not_the_hosts_alone(host: Host, address: int, protect: bool) -> None:
    """M6, M7, H3: as memory, as run page, mailbox, buffer and request; the one before is good, in ranges."""
    for number, secret in ((0, False), (1, True)):
        other = host.good(Call.CREATE_VM)
        assert declare(host, other, 0, 0, BLOCK) == 0
        if secret:
            host.good(Call.ENABLE_CAP, other, 0xFFBADAB1, 2)
        host.good(Call.MAP_GUEST, other, 0, OTHERS[number] // PAGE, 0, 1)
    vmid = make_vm(host, protected=protect)
    before, seen = bytes(host.machine.entries().cast("B")), host.seen()
    free = host.machine.free_frames
    calls = [
        (Call.CREATE_VCPU, vmid << 16 | 5, address),
        (Call.CREATE_VCPU, vmid << 16 | 5, (address - PAGE) & WORD),
        (Call.ENABLE_CAP, vmid, 0x9201, BLOCK, address),
        (Call.SET_MEMREGION, vmid, 2 * PAGE, address),
        (Call.SET_MEMREGION, vmid, 2 * PAGE, (address - PAGE) & WORD),
    ]
    if address not in NOT_A_PAGE[:2]:
        calls += [(Call.MAP_GUEST, vmid, 0, address // PAGE, GFN, 1)]
        calls += [(Call.MAP_GUEST, vmid, 0, (address // PAGE - 1) & WORD, GFN, 2)]
    for call in calls:
        assert host.call(smc64(call[0]), *call[1:]) == Error.INVALID_ARGS, call
    assert host.call(smc64(Call.CREATE_DEVICE), vmid, address) != 0
    assert populate(host, vmid, 0, GUEST_BASE, [(GUEST_RAM, 1), (address, 1)]) == Error.INVALID_ARGS
    if address % PAGE == 0:
        mail(host, [PFN, PFN + 1, address // PAGE])
        assert host.call(smc64(Call.MAP_GUEST_BLOCK), vmid, 0, GFN, 3) == Error.INVALID_ARGS
    assert bytes(host.machine.entries().cast("B")) == before
    assert host.seen() == seen and host.mapped(vmid) == {}
    assert host.machine.free_frames == free
    finish(host)


def test_a_handle_that_is_used_again_inherits_nothing(host: Host) -> None:
    """M11: no translation of the VMID survives in a TLB, and none is in the new tables; over all 64 of them too."""
    for _ in range(3):
        vmid = make_vm(host)
        host.good(Call.MAP_GUEST, vmid, 0, PFN, GFN, 512)
        host.jit.clear_events()
        host.good(Call.DESTROY_VM, vmid, 0)
        assert "tlbi vmalls12e1is" in [event.name for event in host.jit.events]
        assert host.good(Call.CREATE_VM) == vmid
        assert host.mapped(vmid) == {}
        host.good(Call.DESTROY_VM, vmid, 0)
    vmid = host.good(Call.CREATE_VM)
    host.good(Call.MEMREGION_PURPOSE, vmid, GUEST_BASE, BLOCK, 4)
    host.good(Call.DESTROY_VM, vmid, 0)
    assert host.good(Call.CREATE_VM) == vmid
    assert populate(host, vmid, 0, GUEST_BASE, [(GUEST_RAM, 512)]) == 0
    assert len(host.mapped(vmid)) == 512, "no declaration: what was announced, another VM announced"
    host.good(Call.DESTROY_VM, vmid, 0)
    handles = [host.good(Call.CREATE_VM) for _ in range(64)]
    assert handles == list(range(1, 65))
    assert host.call(smc64(Call.CREATE_VM)) == Error.NO_MEMORY
    for handle in handles:
        host.good(Call.DESTROY_VM, handle, 0)
        assert host.call(smc64(Call.DESTROY_VM), handle, 0) == Error.INVALID_ARGS
    assert MAILBOX // PAGE not in host.owners()
    finish(host)


@pytest.mark.parametrize("state", [vms.FREE, vms.MAKING, vms.ENDING, vms.RESIDENT])
def test_no_call_finds_a_vm_that_is_not_the_hosts(host: Host, state: int) -> None:
    """Nor one that is being made or unmade; the core's own guests least of all (docs/core.md)."""
    vmid = make_vm(host)
    vm = host.vm(vmid)
    vm.used = state
    for call in Call:
        if call in (Call.PROBE, Call.CREATE_VM) or (call == Call.DESTROY_VM and state == vms.ENDING):
            continue
        tuple_ = vmid << 16 if call in VCPU_CALLS else vmid
        status = host.call(smc64(call), tuple_, 0, 1)
        assert status in (Error.INVALID_ARGS, Error.NOT_IMPLEMENTED), call
    assert vm.vcpus[0] is not None and not vm.last_run[0]
    vm.used = vms.LIVE
    finish(host)


def test_a_guest_leaves_tables_for_others(host: Host) -> None:
    """H8: one page in every block takes a table for each; half of all frames is what a guest gets."""
    host.reset(frame_count=100)
    greedy, modest = (host.good(Call.CREATE_VM) for _ in range(2))
    for vmid in (greedy, modest):
        assert declare(host, vmid, 0, 0, 200 * BLOCK) == 0

    def strew(vmid: int, first: int) -> int:
        """Blocks with a page until there is an error."""
        for block in range(200):
            if (status := host.call(smc64(Call.MAP_GUEST), vmid, 0, first + block, block * 512, 1)) != 0:
                assert status == Error.NO_MEMORY
                return block
        return 200

    most = strew(greedy, PFN)
    assert 40 < most < 60 and host.machine.free_frames >= 40
    assert strew(modest, PFN + 512) >= 40
    finish(host)
