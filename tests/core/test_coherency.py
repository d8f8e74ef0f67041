# SPDX-License-Identifier: Apache-2.0
"""Caches and TLBs: what each kind of CPU wants, and that a page's new owner sees nothing older than the page."""

from __future__ import annotations

import pytest
from caller import GUEST_BASE, GUEST_RAM, Host, declare, finish, mail, make_vm
from el2 import PAGE
from walker import leaves

import gz.core.coherency as coherency
import gz.core.sharing as sharing
import gz.core.stage2 as stage2
from gz.abi.calls import Call
from gz.arm64.registers import HCR_EL2
from gz.bits.annotation import type_of
from gz.core.memory import RAM_WINDOW
from gz.core.vcpu import Vcpu
from gz.metal.values import view_at

GFN, PFN = GUEST_BASE // PAGE, GUEST_RAM // PAGE
IDC_DIC = 3 << 28
FWB = 1 << 40
WRITE_BACK, FORCED_WRITE_BACK = 0b1111, 0b0110


@pytest.fixture(scope="module")
def compiled() -> Host:
    return Host(coherency.begin, coherency.join, stage2.flush, stage2.unmap)


@pytest.fixture
def host(compiled: Host) -> Host:
    compiled.reset()
    return compiled


def cpu(host: Host, *, midr: int = 0x000F_0510, mmfr2: int = 0, ctr: int = 0) -> None:
    registers = host.jit.sysregs
    registers.MIDR_EL1, registers.ID_AA64MMFR2_EL1, registers.CTR_EL0 = midr, mmfr2, 10 << 16 | ctr
    registers.DCZID_EL0 = 1 << 4


def begin(host: Host) -> None:
    host.machine.fn(coherency.begin)()


def events(host: Host) -> list[str]:
    return [event.name for event in host.jit.events]


@pytest.mark.parametrize("protect", [False, True])
@pytest.mark.parametrize("mmfr2, ctr", [(0, 0), (0, IDC_DIC), (FWB, 0), (FWB, IDC_DIC)])
def test_what_a_guest_gets(host: Host, mmfr2: int, ctr: int, protect: bool) -> None:
    cpu(host, mmfr2=mmfr2, ctr=ctr)
    begin(host)
    vmid = make_vm(host, protected=protect)
    hcr = HCR_EL2(view_at(type_of(Vcpu), host.vm(vmid).vcpus[0]).context.hcr)
    assert bool(hcr.FWB) is bool(mmfr2)
    host.jit.clear_events()
    host.good(Call.MAP_GUEST, vmid, 0, PFN, GFN, 2)
    names = events(host)
    assert names.count("dc civac") == (0 if mmfr2 else 2 * PAGE // (4 << 10))
    if "dc civac" in names:
        assert names[len(names) - names[::-1].index("dc civac")] == "dsb sy", "cleaned before anybody sees it"
    assert names.count("ic ialluis") == (ctr == 0)
    if "dc civac" in names and "ic ialluis" in names:
        assert names.index("dc civac") < names.index("ic ialluis"), "instructions fetched before they were there"
    s = host.vm(vmid).stage2
    tables = host.machine.fn(stage2.vtcr)(), host.machine.fn(stage2.vttbr)(s)
    kinds = {attributes >> 2 & 0xF for *_, attributes in leaves(host.machine.memory.read64, *tables)}
    assert kinds == {FORCED_WRITE_BACK if mmfr2 else WRITE_BACK}
    host.jit.clear_events()
    host.good(Call.DESTROY_VM, vmid, 0)
    assert events(host).count("dc civac") == (2 if protect else 0), "zeros below the caches too"
    finish(host)


@pytest.mark.parametrize("protect", [False, True])
@pytest.mark.parametrize("mmfr2, ctr", [(0, 0), (0, IDC_DIC), (FWB, 0), (FWB, IDC_DIC)])
def test_a_block_is_cleaned_and_then_fetched_anew(host: Host, mmfr2: int, ctr: int, protect: bool) -> None:
    """Over all turns that it takes."""
    cpu(host, mmfr2=mmfr2, ctr=ctr)
    begin(host)
    vmid = make_vm(host, protected=protect)
    host.jit.clear_events()
    mail(host, [PFN + i for i in range(512)])
    host.good(Call.MAP_GUEST_BLOCK, vmid, 0, GFN, 512)
    names = events(host)
    assert names.count("dc civac") == (0 if mmfr2 else 512 * PAGE // (4 << 10))
    assert names.count("ic ialluis") == (ctr == 0)
    if "dc civac" in names and "ic ialluis" in names:
        last = len(names) - 1 - names[::-1].index("dc civac")
        assert last < names.index("ic ialluis"), "instructions fetched before they were there"
    finish(host)


@pytest.mark.parametrize("mmfr2", [0, FWB])
def test_caches_tell_nothing_of_what_is_shown_and_hidden(host: Host, mmfr2: int) -> None:
    """Host and guest may look past them: at what a page held before, and later at what the other one's lines held."""
    cpu(host, mmfr2=mmfr2)
    begin(host)
    vmid = make_vm(host, protected=True)
    host.good(Call.MAP_GUEST, vmid, 0, PFN, GFN, 3)
    vcpu = view_at(type_of(Vcpu), host.vm(vmid).vcpus[0])
    lines = {RAM_WINDOW + (PFN + 1) * PAGE + at for at in range(0, 2 * PAGE, 4 << 10)}
    host.jit.clear_events()
    assert host.machine.fn(sharing.show)(vcpu, (GFN + 1) * PAGE, 2) == (0, 2)
    assert {event.value for event in host.jit.events if event.name == "dc civac"} == lines
    host.jit.clear_events()
    assert host.machine.fn(sharing.hide)(vcpu, (GFN + 1) * PAGE, 2) == (0, 2)
    names = events(host)
    if mmfr2:
        assert "dc civac" not in names, "the guest always sees them"
    else:
        assert {event.value for event in host.jit.events if event.name == "dc civac"} == lines
        assert names.index("tlbi vmalls12e1is") < names.index("dc civac"), "a late write of the host's"
    finish(host)


@pytest.mark.parametrize(
    "midr, repeats",
    [
        (0x413F_D0B1, 1),  # Cortex-A76 r3p1
        (0x410F_D850, 1),  # Cortex-X925
        (0x4E0F_0100, 1),  # Olympus
        (0x6D0F_D490, 1),  # Cobalt 100
        (0x410F_D083, 0),  # Cortex-A72
        (0x6D0F_D0B0, 0),  # not Arm's A76
        (0x000F_0510, 0),  # QEMU's max
    ],
)
def test_maintenance_is_repeated_where_stores_are_late(host: Host, midr: int, repeats: int) -> None:
    cpu(host, midr=midr)
    begin(host)
    vmid = host.good(Call.CREATE_VM)
    host.jit.clear_events()
    host.machine.fn(stage2.flush)(host.vm(vmid).stage2)
    maintenance = [name for name in events(host) if name.startswith(("tlbi", "dsb"))]
    again = repeats * ["tlbi vale1is", "dsb ish"]
    assert maintenance == ["dsb ishst", "tlbi vmalls12e1is", "dsb ish", *again]
    assert declare(host, vmid, 0, GFN * PAGE, 2 * PAGE) == 0
    host.good(Call.MAP_GUEST, vmid, 0, PFN, GFN, 2)
    host.jit.clear_events()
    assert host.machine.fn(stage2.unmap)(host.vm(vmid).stage2, GFN * PAGE, PAGE) == 0
    maintenance = [name for name in events(host) if name.startswith(("tlbi", "dsb"))]
    assert maintenance == ["dsb ishst", "tlbi ipas2e1is", "dsb ish", "tlbi vmalle1is", "dsb ish", *again]


def test_one_cpu_that_wants_more_decides(host: Host) -> None:
    machine = host.jit.storage("gz.core.platform.machine")
    cpu(host, mmfr2=FWB, ctr=IDC_DIC)
    begin(host)
    assert (machine.forces_write_back, machine.fetches_coherently, machine.repeats_tlbi) == (1, 1, 0)
    cpu(host, midr=0x410F_D050, mmfr2=FWB)
    host.machine.fn(coherency.join)()
    assert (machine.forces_write_back, machine.fetches_coherently, machine.repeats_tlbi) == (1, 0, 1)
    cpu(host, mmfr2=FWB, ctr=IDC_DIC)
    host.machine.fn(coherency.join)()
    assert (machine.forces_write_back, machine.fetches_coherently, machine.repeats_tlbi) == (1, 0, 1)
    cpu(host)
    with pytest.raises(Exception, match="FEAT_S2FWB"):
        host.machine.fn(coherency.join)()
