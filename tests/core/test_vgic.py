# SPDX-License-Identifier: Apache-2.0
"""The virtual GIC against an independent model: registers of all widths, sources, the guest's own cycle, overflow."""

from __future__ import annotations

import ctypes
import random
from typing import Any

import pytest
from el2 import Machine
from gic_model import IDLE_PRIORITY, SPURIOUS, Interface, Model

import gz.core.list_registers as list_registers
import gz.core.timer as timer
import gz.core.vgic as vgic
import gz.core.vgic_mmio as vgic_mmio
import gz.core.vgic_reset as vgic_reset
from gz.abi.errors import Error
from gz.core.context import Context
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu
from gz.core.vm import Vm

GICD = 0x0800_0000
GICR = 0x080A_0000
CRV_GICD = 0x3FFF_0000


class Guest:
    """A VM with vCPUs of which one at a time is on the only CPU; `own` says which."""

    def __init__(self) -> None:
        self.machine = Machine(
            vgic_reset.create_distributor,
            vgic_reset.create_redistributor,
            vgic_reset.destroy,
            vgic_reset.reset,
            vgic_reset.create_vcpu,
            vgic.contains,
            vgic.access,
            vgic.irq_line,
            vgic.send_sgi,
            vgic_mmio.deactivate,
            vgic.flush,
            vgic.maintenance,
            vgic.deliverable,
            vgic.leave_idle,
            list_registers.load,
            list_registers.save,
            list_registers.surrender,
            timer.reset,
            timer.load,
            timer.save,
            timer.interrupt,
            timer.hypervisor_interrupt,
            timer.set_physical,
            timer.physical_control,
            timer.deadline,
        )
        self.jit = self.machine.jit
        self.redistributor_frame = self.jit.buffer(0x2_0000)
        self.vm_frame = self.jit.buffer(Vm.size)
        self.frames = [self.jit.buffer(4096) for _ in range(vgic.VCPUS)]

    def start(self, count: int = 1, registers: int = 4, distributor: int = CRV_GICD) -> None:
        self.machine.reset()
        self.jit.sysregs.CNTFRQ_EL0 = 62_500_000
        self.interface = Interface(self.jit, registers)
        self.gicd, self.gicr = distributor, GICR
        ctypes.memset(self.vm_frame.address, 0, Vm.size)
        self.vm: Any = Vm.view(self.vm_frame.memory)
        self.vm_at = self.vm_frame.address
        cpu = self.jit.storage("gz.core.cpu.CPUS")[0]
        cpu.redistributor = self.redistributor_frame.address
        ctypes.memset(self.redistributor_frame.address, 0, 0x2_0000)
        self.vcpus: list[Any] = []
        self.at: list[int] = []
        for i in range(count):
            frame = self.frames[i]
            ctypes.memset(frame.address, 0, 4096)
            vcpu: Any = Vcpu.view(frame.memory)
            vcpu.vm, vcpu.index = self.vm_at, i
            vcpu.context.cpu = address(cpu)
            self.vm.vcpus[i] = frame.address
            self.vcpus.append(vcpu)
            self.at.append(frame.address)
        assert self.call(vgic_reset.create_distributor, self.vm_at, distributor, 0x1_0000) == Error.NO_ERROR
        assert self.call(vgic_reset.create_redistributor, self.vm_at, GICR, 0x2_0000) == Error.NO_ERROR
        for i in range(count):
            self.call(vgic_reset.create_vcpu, self.at[i])
        self.model = Model(count)
        self.own = 0
        self.stacks: list[list[int]] = [[] for _ in range(count)]
        # The host's calls come from CPU 1: kicks for CPU 0 are answered at once.
        self.jit.storage("gz.core.platform.machine").group0 = 1
        self.jit.sysregs.MPIDR_EL1 = 1 << 31 | 1
        self.jit.on_write("ICC_SGI0R_EL1", self.kicked)
        self.enter(0)

    def call(self, function: Any, *arguments: Any) -> Any:
        return self.jit.fn(function)(*arguments)

    def kicked(self, value: int) -> None:
        if self.vcpus[self.own].gic.recall:
            self.call(list_registers.surrender, self.at[self.own])

    def enter(self, index: int) -> None:
        self.own = index
        self.vcpus[index].running = 1
        shared = self.vm_at + Vm.offset("vgic")  # nobody else wants its lock
        self.call(timer.load, self.at[index], shared)
        self.call(list_registers.load, self.at[index], shared)
        self.settle()

    def leave(self) -> None:
        self.call(list_registers.save, self.at[self.own])
        self.call(timer.save, self.at[self.own])
        self.vcpus[self.own].running = 0
        assert not any(self.interface.lr(n) for n in range(16))
        assert self.jit.sysregs.ICH_HCR_EL2 == self.jit.sysregs.ICH_VMCR_EL2 == 0
        assert self.jit.sysregs.ICH_AP0R0_EL2 == self.jit.sysregs.ICH_AP1R0_EL2 == 0

    def switch(self, index: int) -> None:
        self.leave()
        self.enter(index)

    def settle(self) -> None:
        """Back into the guest, and the maintenance interrupts that come of it."""
        for _ in range(4):
            if self.vcpus[self.own].gic.dirty:
                self.call(vgic.flush, self.at[self.own])
            if not self.interface.maintenance():
                break
            assert self.call(vgic.maintenance, self.at[self.own])
        else:
            pytest.fail("the maintenance interrupt does not end")
        self.interface.contents()

    def access(self, ipa: int, size: int, write: int | None = None) -> int:
        assert self.call(vgic.contains, self.vm_at, ipa)
        value = self.call(vgic.access, self.at[self.own], ipa, size, write is not None, write or 0)
        self.settle()
        return value

    def both(self, where: str, offset: int, size: int, write: int | None = None) -> int:
        """The same access to model and core; reads agree."""
        base, model = (self.gicd, self.model.distributor) if where == "d" else (self.gicr, self.model.redistributor)
        value = self.access(base + offset, size, write)
        expected = model(offset, size, write)
        if write is None:
            assert value == expected, f"GIC{where.upper()} {offset:#x} size {size}"
        return value

    def unmask(self, priority: int = 0xF8) -> None:
        self.jit.sysregs.ICH_VMCR_EL2 = priority << 24 | 3

    def take(self) -> int:
        """The guest acknowledges; what it gets is what the model would give it."""
        limit = min(self.interface.jit.sysregs.ICH_VMCR_EL2 >> 24, self.interface.running_priority())
        waiting = [i for i in self.model.waiting(self.own) if i.priority < limit]
        intid = self.interface.acknowledge()
        if not waiting:
            assert intid == SPURIOUS
            return intid
        best = min(i.priority for i in waiting)
        assert intid in [i.intid for i in waiting if i.priority == best]
        self.model.acknowledge(self.own, intid)
        self.stacks[self.own].append(intid)
        self.settle()
        return intid

    def end(self) -> int:
        intid = self.stacks[self.own].pop()
        self.interface.end(intid)
        self.model.end(self.own, intid)
        self.settle()
        return intid

    def line(self, intid: int, level: int) -> None:
        number = intid - 32
        if number >= 32 and self.vm.quirks:
            number = intid
        assert self.call(vgic.irq_line, self.vm_at, 0, number, level) == Error.NO_ERROR
        self.model.irq_line(intid, level)
        self.settle()

    def sgi(self, value: int, group1: bool = True) -> None:
        self.call(vgic.send_sgi, self.at[self.own], value, group1)
        self.model.sgi(self.own, value, group1)
        self.settle()

    def enable(self, intid: int, priority: int = 0xA0, edge: bool = False) -> None:
        """Group 1, as Linux sets it up."""
        where, base = ("d", 0) if intid >= 32 else ("r", 0x2_0000 * self.own + 0x1_0000)
        if self.model.control != 2:
            self.both("d", 0, 4, 2)
        word = intid // 32 * 4
        group = self.both(where, base + 0x80 + word, 4)
        self.both(where, base + 0x80 + word, 4, group | 1 << intid % 32)
        self.both(where, base + 0x400 + intid, 1, priority)
        if intid >= 32:
            configuration = self.both(where, 0xC00 + intid // 16 * 4, 4)
            bit = 2 << 2 * (intid % 16)
            self.both(where, 0xC00 + intid // 16 * 4, 4, configuration | bit if edge else configuration & ~bit)
        self.both(where, base + 0x100 + word, 4, 1 << intid % 32)


def address(view: Any) -> int:
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(memoryview(view._bytes)))


@pytest.fixture(scope="module")
def machine() -> Guest:
    return Guest()


@pytest.fixture
def guest(machine: Guest) -> Guest:
    machine.start()
    return machine


def test_identification(guest: Guest) -> None:
    for offset in (0x0, 0x4, 0x8, 0xC, 0x10, 0xFFD0, 0xFFE0, 0xFFE4, 0xFFE8, 0xFFF0, 0xFFFC):
        guest.both("d", offset, 4)
    for offset in (0x0, 0x4, 0x8, 0xC, 0x14, 0x70, 0xFFE8):
        guest.both("r", offset, 4)
    assert guest.both("r", 8, 8) >> 4 & 1 == 1


def test_last_is_set_once_and_absent_frames_are_not_ours(machine: Guest) -> None:
    machine.start(count=3)
    assert [machine.both("r", 0x2_0000 * i + 8, 8) >> 4 & 1 for i in range(3)] == [0, 0, 1]
    assert not machine.call(vgic.contains, machine.vm_at, GICR + 3 * 0x2_0000)
    assert not machine.call(vgic.contains, machine.vm_at, GICR - 1)
    assert not machine.call(vgic.contains, machine.vm_at, CRV_GICD + 0x1_0000)


def test_waker_handshake(guest: Guest) -> None:
    assert guest.both("r", 0x14, 4) == 6
    guest.both("r", 0x14, 4, 0)
    assert guest.both("r", 0x14, 4) == 0


def test_self_sgi_comes_and_goes(guest: Guest) -> None:
    guest.unmask()
    guest.enable(3)
    for _ in range(3):
        guest.sgi(3 << 24 | 1)
        assert guest.take() == 3
        assert guest.end() == 3
        assert guest.take() == SPURIOUS


def test_sgi_again_while_active_comes_after_the_end(guest: Guest) -> None:
    guest.unmask()
    guest.enable(3)
    guest.sgi(3 << 24 | 1)
    assert guest.take() == 3
    guest.sgi(3 << 24 | 1)
    assert guest.take() == SPURIOUS
    guest.end()
    assert guest.take() == 3


def test_level_with_a_source_that_never_falls_latches_once(guest: Guest) -> None:
    guest.unmask()
    guest.enable(40)
    guest.line(40, 1)
    assert guest.take() == 40
    guest.end()
    assert guest.take() == SPURIOUS
    guest.line(40, 1)
    assert guest.take() == 40


def test_level_with_a_tracked_line_pends_until_it_falls(guest: Guest) -> None:
    guest.unmask()
    guest.enable(40)
    guest.line(40, 0)
    guest.line(40, 1)
    for _ in range(3):
        assert guest.take() == 40
        guest.end()
    guest.take()
    guest.line(40, 0)
    guest.end()
    assert guest.take() == SPURIOUS


def test_a_level_that_falls_before_it_is_taken_is_withdrawn(guest: Guest) -> None:
    guest.unmask()
    guest.enable(40)
    guest.line(40, 0)
    guest.line(40, 1)
    guest.leave()
    guest.call(vgic.irq_line, guest.vm_at, 0, 8, 0)
    guest.model.irq_line(40, 0)
    guest.enter(0)
    assert guest.take() == SPURIOUS


def test_edges_during_activity_give_one_more(guest: Guest) -> None:
    guest.unmask()
    guest.enable(41, edge=True)
    guest.line(41, 0)
    guest.line(41, 1)
    assert guest.take() == 41
    guest.line(41, 0)
    guest.line(41, 1)
    guest.line(41, 0)
    guest.line(41, 1)
    guest.end()
    assert guest.take() == 41
    guest.end()
    assert guest.take() == SPURIOUS


@pytest.mark.parametrize("registers", [1, 2, 4, 16])
def test_more_pending_than_list_registers_come_by_priority(machine: Guest, registers: int) -> None:
    machine.start(registers=registers)
    machine.unmask()
    intids = [*range(1, 8), *range(32, 63)]
    for n, intid in enumerate(intids):
        machine.enable(intid, priority=(n * 40 + 8) & 0xF0, edge=True)
    for intid in intids:
        if intid < 16:
            machine.sgi(intid << 24 | 1)
        else:
            machine.line(intid, 1)
    taken: list[int] = []
    while (intid := machine.take()) != SPURIOUS:
        taken.append(intid)
        machine.end()
    assert sorted(taken) == sorted(intids)


@pytest.mark.parametrize("registers", [1, 2, 4])
def test_nested_preemption_deeper_than_list_registers(machine: Guest, registers: int) -> None:
    """Each is taken while all before are active; they end in reverse, most of them in no register."""
    machine.start(registers=registers)
    machine.unmask()
    intids = [*range(33, 45)]
    for n, intid in enumerate(intids):
        machine.enable(intid, priority=0xF0 - 8 * (n + 1), edge=True)
    for intid in intids:
        machine.line(intid, 1)
        assert machine.take() == intid
    for intid in reversed(intids):
        assert machine.both("d", 0x304, 4) == sum(1 << i - 32 for i in machine.stacks[0])
        assert machine.end() == intid
    assert machine.both("d", 0x304, 4) == 0
    assert machine.take() == SPURIOUS


@pytest.mark.parametrize("registers", [1, 2, 4, 16])
def test_deactivation_by_number(machine: Guest, registers: int) -> None:
    """EOImode = 1: priorities are dropped at once, what is active ends in any order, in a list register or in none."""
    machine.start(registers=registers)
    machine.unmask()
    intids = [*range(33, 43)]
    for n, intid in enumerate(intids):
        machine.enable(intid, priority=0xF0 - 8 * (n + 1), edge=True)
        machine.line(intid, 1)
        assert machine.take() == intid
    machine.jit.sysregs.ICH_AP1R0_EL2 = 0
    for written in (33, 1 << 24 | 34, 1020, 1023, 0xFF_FFFF, 1 << 63):
        machine.call(vgic_mmio.deactivate, machine.at[0], written)
    assert machine.both("d", 0x304, 4) == sum(1 << i - 32 for i in intids), "with EOImode = 0 it has no meaning"
    machine.jit.sysregs.ICH_VMCR_EL2 |= 1 << 9
    for intid in random.Random(registers).sample(intids, len(intids)):
        machine.call(vgic_mmio.deactivate, machine.at[0], intid)
        machine.stacks[0].remove(intid)
        machine.model.end(0, intid)
        machine.settle()
        assert machine.both("d", 0x304, 4) == sum(1 << i - 32 for i in machine.stacks[0])
    for intid in intids:
        machine.line(intid, 0)
        machine.line(intid, 1)
    assert machine.take() == intids[-1]


def test_disable_group_priority_and_mask_hold_it_back(guest: Guest) -> None:
    guest.unmask(0xA0)
    guest.enable(40, priority=0xA0, edge=True)
    guest.line(40, 1)
    assert guest.take() == SPURIOUS
    guest.both("d", 0x400 + 40, 1, 0x98)
    assert guest.interface.highest() is not None
    guest.both("d", 0x184, 4, 1 << 8)
    assert guest.take() == SPURIOUS
    guest.both("d", 0x104, 4, 1 << 8)
    guest.both("d", 0, 4, 0)
    assert guest.take() == SPURIOUS
    guest.both("d", 0, 4, 2)
    assert guest.take() == 40


def test_active_and_pending_by_hand(guest: Guest) -> None:
    """kvm-unit-tests' gicv3-active: ISACTIVER holds an interrupt back, ICACTIVER lets it go."""
    guest.unmask()
    guest.enable(5)
    base = 0x1_0000
    guest.both("r", base + 0x300, 4, 1 << 5)
    assert guest.both("r", base + 0x300, 4) == 1 << 5
    guest.sgi(5 << 24 | 1)
    assert guest.take() == SPURIOUS
    guest.both("r", base + 0x380, 4, 1 << 5)
    assert guest.both("r", base + 0x200, 4) == 1 << 5
    assert guest.take() == 5
    guest.end()
    guest.both("r", base + 0x200, 4, 1 << 5)
    assert guest.both("r", base + 0x200, 4) == 1 << 5
    guest.both("r", base + 0x280, 4, 1 << 5)
    assert guest.take() == SPURIOUS


def test_the_group_changes_while_it_waits(guest: Guest) -> None:
    guest.unmask()
    guest.enable(50, edge=True)
    guest.both("d", 0x204, 4, 1 << 18)
    assert [lr >> 60 & 1 for lr in guest.interface.contents()] == [1]
    guest.both("d", 0x84, 4, 0)
    assert guest.interface.contents() == [] and guest.take() == SPURIOUS
    guest.both("d", 0, 4, 3)
    assert [lr >> 60 & 1 for lr in guest.interface.contents()] == [0] and guest.take() == 50


def test_active_by_hand_where_it_is_routed(machine: Guest) -> None:
    """On the vCPU of its affinity, whoever writes ISACTIVER; that one hears of what ICACTIVER lets go."""
    machine.start(2)
    machine.enable(50, edge=True)
    machine.both("d", 0x6000 + 8 * 50, 8, 1)
    machine.both("d", 0x304, 4, 1 << 18)
    assert machine.interface.contents() == []
    machine.switch(1)
    machine.unmask()
    assert [lr >> 62 for lr in machine.interface.contents()] == [2]
    machine.switch(0)
    machine.both("d", 0x204, 4, 1 << 18)
    machine.vcpus[1].gic.dirty = 0
    machine.both("d", 0x384, 4, 1 << 18)
    assert machine.vcpus[1].gic.dirty == 1
    machine.switch(1)
    assert machine.take() == 50


def test_routing_and_one_of_n(machine: Guest) -> None:
    machine.start(count=3)
    machine.unmask()
    machine.enable(50, edge=True)
    machine.both("d", 0x6000 + 8 * 50, 8, 1)
    assert machine.both("d", 0x6000 + 8 * 50, 8) == 1
    machine.line(50, 1)
    assert machine.take() == SPURIOUS
    machine.switch(1)
    machine.unmask()
    assert machine.take() == 50
    machine.end()
    machine.both("d", 0x6000 + 8 * 50, 8, 1 << 31)
    machine.line(50, 1)
    assert machine.take() == 50
    machine.end()
    machine.switch(2)
    machine.unmask()
    assert machine.take() == SPURIOUS
    machine.both("d", 0x6000 + 8 * 50, 8, 7)  # nobody has that affinity
    machine.line(50, 1)
    assert machine.take() == SPURIOUS
    machine.both("d", 0x6000 + 8 * 50, 4, 2)
    assert machine.take() == 50


def test_one_of_n_goes_where_its_group_is_enabled(machine: Guest) -> None:
    """Also if that changes while it waits, and to another vCPU when this one leaves the CPU with it."""
    machine.start(2)
    closed = 0xF8 << 24
    machine.jit.sysregs.ICH_VMCR_EL2 = closed
    machine.enable(50, edge=True)
    machine.both("d", 0x6000 + 8 * 50, 8, 1 << 31)
    machine.both("d", 0x204, 4, 1 << 18)
    assert machine.interface.contents() == []
    machine.unmask()
    machine.settle()
    assert machine.take() == machine.end() == 50
    machine.both("d", 0x204, 4, 1 << 18)
    assert len(machine.interface.contents()) == 1
    machine.vcpus[1].gic.dirty = 0
    machine.jit.sysregs.ICH_VMCR_EL2 = closed
    machine.settle()
    assert machine.interface.contents() == [] and machine.vcpus[1].gic.dirty == 1
    machine.switch(1)
    machine.unmask()
    machine.settle()
    assert machine.take() == machine.end() == 50
    machine.both("d", 0x204, 4, 1 << 18)
    machine.vcpus[0].gic.dirty = 0
    machine.leave()
    assert machine.vcpus[0].gic.dirty == 1


def test_sgi_targets(machine: Guest) -> None:
    machine.start(count=4)
    machine.enable(1)
    pends = [0x2_0000 * v + 0x1_0200 for v in range(4)]
    for value, expected in (
        (1 << 24 | 0b1110, [0, 1, 1, 1]),
        (1 << 24 | 1 << 40, [0, 1, 1, 1]),
        (1 << 24 | 0xFFF0, [0, 0, 0, 0]),
        (1 << 24 | 0b0010 | 1 << 16, [0, 0, 0, 0]),
        (1 << 24 | 0b0010 | 1 << 32, [0, 0, 0, 0]),
        (1 << 24 | 0b0010 | 1 << 44, [0, 0, 0, 0]),
        (1 << 24 | 0b0010 | 1 << 48, [0, 0, 0, 0]),
    ):
        machine.sgi(value)
        assert [machine.both("r", pend, 4) >> 1 & 1 for pend in pends] == expected
        for pend in pends:
            machine.both("r", pend + 0x80, 4, 0xFFFF)


def test_group0_sgi_registers_reach_group0_only(guest: Guest) -> None:
    guest.enable(1)
    guest.sgi(1 << 24 | 1, group1=False)
    guest.sgi(2 << 24 | 1, group1=False)
    assert guest.both("r", 0x1_0200, 4) == 1 << 2


def test_a_sender_tells_the_host_about_a_sleeping_target(machine: Guest) -> None:
    machine.start(count=2)
    machine.vm.capabilities = 4
    machine.sgi(1 << 24 | 2)
    assert machine.vcpus[0].gic.announce == 0
    machine.vcpus[1].idle = 1
    machine.sgi(1 << 24 | 2)
    assert machine.vcpus[0].gic.announce == 1
    machine.vcpus[0].gic.announce = 0
    machine.vm.capabilities = 0
    machine.sgi(1 << 24 | 2)
    assert machine.vcpus[0].gic.announce == 0


def test_wfi_sees_what_is_deliverable(guest: Guest) -> None:
    guest.vm.capabilities = 4
    guest.unmask(0xA0)
    guest.enable(40, priority=0x98, edge=True)
    vcpu = guest.at[0]

    def waits() -> bool:
        guest.vcpus[0].idle = 1
        outcome = guest.call(vgic.leave_idle, vcpu)
        assert guest.vcpus[0].idle == (outcome == Outcome.LEAVE)
        guest.settle()
        return outcome == Outcome.LEAVE

    assert waits()
    guest.line(40, 1)
    assert not waits()
    guest.both("d", 0x400 + 40, 1, 0xA0)
    assert waits()
    guest.both("d", 0x400 + 40, 1, 0x98)
    guest.both("d", 0x184, 4, 1 << 8)
    assert waits()
    guest.both("d", 0x104, 4, 1 << 8)
    guest.jit.sysregs.ICH_VMCR_EL2 = 0xA0 << 24 | 1
    assert waits()
    guest.unmask(0xA0)
    assert guest.take() == 40
    assert waits()


def test_without_the_capability_wfi_waits_in_the_core(guest: Guest) -> None:
    guest.unmask()
    guest.jit.clear_events()
    guest.vcpus[0].idle = 1
    assert guest.call(vgic.leave_idle, guest.at[0]) == Outcome.RESUME
    assert "wfi" in [event.name for event in guest.jit.events]


def test_irq_line_numbers(machine: Guest) -> None:
    def pending() -> list[int]:
        spis = [n for n in range(32, 1020) if machine.both("d", 0x200 + n // 32 * 4, 4) >> n % 32 & 1]
        for word in range(1, 32):
            machine.both("d", 0x280 + 4 * word, 4, 0xFFFF_FFFF)
        return spis

    def line(number: int, level: int = 1, vcpu: int = 0) -> int:
        status = machine.call(vgic.irq_line, machine.vm_at, vcpu, number, level)
        if status == 0:
            intid = number if number >= 32 and machine.vm.quirks else number + 32
            machine.model.irq_line(intid, level)
        return status

    machine.start(distributor=CRV_GICD)
    assert line(0) == line(31) == line(64) == line(987) == 0
    assert pending() == [32, 63, 96, 1019]
    machine.start(distributor=GICD)
    assert line(0) == line(31) == line(64) == line(1019) == 0
    assert pending() == [32, 63, 64, 1019]
    for number, level, vcpu in ((988, 1, 0), (1020, 1, 0), (1 << 63, 1, 0), (3, 2, 0), (3, 1, 1), (3, 1, 99)):
        machine.start(distributor=CRV_GICD)
        assert line(number, level, vcpu) == Error.INVALID_ARGS
        assert pending() == []


def test_no_distributor(machine: Guest) -> None:
    machine.start()
    machine.leave()
    machine.call(vgic_reset.destroy, machine.vm_at)
    assert not machine.call(vgic.contains, machine.vm_at, CRV_GICD)
    assert not machine.call(vgic.contains, machine.vm_at, GICR)
    assert machine.call(vgic.irq_line, machine.vm_at, 0, 3, 1) == Error.INVALID_ARGS
    for base, size in ((CRV_GICD + 0x1000, 0x1_0000), (CRV_GICD, 0x1000), ((1 << 64) - 0x1_0000, 0x1_0000)):
        assert machine.call(vgic_reset.create_distributor, machine.vm_at, base, size) == Error.INVALID_ARGS
    free = machine.machine.free_frames
    assert machine.call(vgic_reset.create_distributor, machine.vm_at, CRV_GICD, 0x1_0000) == Error.NO_ERROR
    assert machine.call(vgic_reset.create_distributor, machine.vm_at, CRV_GICD, 0x1_0000) == Error.INVALID_ARGS
    machine.call(vgic_reset.destroy, machine.vm_at)
    assert machine.machine.free_frames == free


REGISTERS = [*range(0x80, 0x400, 4), *range(0xC00, 0xD00, 4)]


@pytest.mark.parametrize("seed", range(12))
def test_random_accesses_of_all_widths(machine: Guest, seed: int) -> None:
    rng = random.Random(seed)
    machine.start(count=rng.choice((1, 2, 8)), registers=rng.choice((1, 4, 16)))
    for _ in range(400):
        where = rng.choice("dr")
        size = rng.choice((1, 2, 4, 4, 4, 4, 8))
        span = 0x1_0000 if where == "d" else machine.model.count * 0x2_0000
        if rng.random() < 0.3:
            offset = rng.randrange(span)
        else:
            offset = rng.choice((rng.choice(REGISTERS), 0x400 + rng.randrange(0x400), 0x6000 + rng.randrange(0x2000)))
            if where == "r":
                offset = rng.randrange(machine.model.count) * 0x2_0000 + 0x1_0000 + offset % 0x1000
            if rng.random() < 0.9:
                offset &= ~(size - 1)
        offset = min(offset, span - size)
        machine.both(where, offset, size, rng.getrandbits(8 * size) if rng.random() < 0.6 else None)


@pytest.mark.parametrize("seed", range(40))
def test_random_life(machine: Guest, seed: int) -> None:
    """Sources, registers, the guest's cycle and world switches in any order: what is taken is what must be."""
    rng = random.Random(seed)
    count = rng.choice((1, 2, 3))
    machine.start(count=count, registers=rng.choice((1, 2, 4)))
    intids = [*range(6), *rng.sample(range(32, 1020), 14)]
    for vcpu in range(count):
        machine.switch(vcpu)
        machine.unmask(rng.choice((0xF8, 0xF8, 0x80)))
        for intid in intids:
            if intid < 32 or vcpu == 0:
                machine.enable(intid, priority=rng.randrange(32) << 3, edge=rng.random() < 0.5)
            if intid >= 32 and vcpu == 0:
                machine.both("d", 0x6000 + 8 * intid, 8, rng.randrange(count))
    for _ in range(500):
        step = rng.random()
        intid = rng.choice(intids)
        word, bit = intid // 32 * 4, 1 << intid % 32
        where, base = ("d", 0) if intid >= 32 else ("r", 0x2_0000 * rng.randrange(count) + 0x1_0000)
        if step < 0.25:
            if intid >= 32:
                machine.line(intid, rng.randrange(2))
            else:
                machine.sgi(intid << 24 | rng.randrange(16))
        elif step < 0.5:
            machine.take()
        elif step < 0.7:
            if machine.stacks[machine.own]:
                machine.end()
        elif step < 0.8:
            machine.switch(rng.randrange(count))
        elif step < 0.86:
            machine.both(where, base + rng.choice((0x100, 0x180)) + word, 4, bit)
        elif step < 0.9:
            machine.both(where, base + rng.choice((0x200, 0x280)) + word, 4, bit)
        elif step < 0.94:
            for register in (0x100, 0x200, 0x300):
                machine.both(where, base + register + word, 4)
        elif step < 0.97:
            owner = base // 0x2_0000
            if machine.model.of(owner, intid).active_on is None:  # else UNPREDICTABLE which one an end belongs to
                machine.both(where, base + 0x400 + intid, 1, rng.randrange(32) << 3)
        elif intid >= 32 and machine.model.spis[intid].active_on is None:
            machine.both("d", 0x6000 + 8 * intid, 8, rng.randrange(count + 1))
    for vcpu in range(count):
        machine.switch(vcpu)
        machine.unmask()
        while machine.stacks[vcpu] or machine.take() != SPURIOUS:
            while machine.stacks[vcpu]:
                intid = machine.end()
                if intid >= 32:
                    machine.line(intid, 0)
        assert machine.interface.running_priority() == IDLE_PRIORITY
        machine.unmask(0xF8)


def test_another_cpu_gives_up_its_list_registers(machine: Guest) -> None:
    """A register access about an interrupt that lies in another CPU's list register waits for that CPU's answer."""
    machine.start(count=2)
    machine.unmask()
    machine.enable(1)
    machine.sgi(1 << 24 | 1)
    assert machine.take() == 1
    interface = [machine.interface.lr(n) for n in range(16)]
    asked: list[int] = []

    def kicked(value: int) -> None:
        """CPU 0, interrupted, with the lock held by CPU 1."""
        asked.append(value)
        for n in range(16):
            machine.interface.set_lr(n, interface[n])
        gic = machine.vcpus[0].gic
        assert gic.recall == 1 and gic.dirty == 1
        bit = 1 << 1
        gic.private.listed &= ~bit
        gic.private.active |= bit
        gic.used = 0
        gic.recall = 0

    machine.jit.storage("gz.core.cpu.CPUS")[0].mpidr = 0
    machine.jit.storage("gz.core.platform.machine").group0 = 1
    machine.jit.sysregs.MPIDR_EL1 = 1 << 31 | 1
    machine.jit.on_write("ICC_SGI0R_EL1", kicked)
    machine.vcpus[1].running = 2
    value = machine.call(vgic.access, machine.at[1], GICR + 0x1_0300, 4, False, 0)
    machine.jit.on_write("ICC_SGI0R_EL1", None)
    assert value == 1 << 1
    assert len(asked) == 1
    assert Context.offset("x") == 0
