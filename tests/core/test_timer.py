# SPDX-License-Identifier: Apache-2.0
"""Timers of guests and host: CNTV handed on by hardware, CNTP emulated, the host's deadline while a guest runs."""

from __future__ import annotations

import random
from typing import Any

import pytest
from gic_model import SPURIOUS
from test_vgic import Guest

import gz.core.timer as timer
import gz.core.vgic as vgic
from gz.arm64.gic import GicrSgi
from gz.core.outcome import Outcome

VIRTUAL, PHYSICAL, HYPERVISOR, MAINTENANCE = 27, 30, 26, 25
NEVER = (1 << 64) - 1
BASE = 0x1_0000


class Clock(Guest):
    """The counter and the three comparators as the hardware has them."""

    def start(self, *arguments: int, **options: int) -> None:
        self.now = 1_000_000
        self.jit.on_read("CNTPCT_EL0", None)
        self.active = False
        super().start(*arguments, **options)
        self.jit.on_read("CNTPCT_EL0", lambda: self.now)
        self.jit.on_read("CNTV_CTL_EL0", self.virtual_control)
        self.control = 0
        self.jit.on_write("CNTV_CTL_EL0", self.set_control)
        self.leave()
        self.vm.counter_offset = self.now
        self.enter(0)

    def call(self, function: Any, *arguments: Any) -> Any:
        """PPI 27's active state at the physical redistributor follows."""
        if VIRTUAL in self.interface.deactivated:
            self.interface.deactivated.clear()
            self.active = False
        self.frame.ISACTIVER0 = self.frame.ICACTIVER0 = 0
        result = super().call(function, *arguments)
        if self.frame.ICACTIVER0:
            self.active = False
        if self.frame.ISACTIVER0:
            self.active = True
        return result

    def set_control(self, value: int) -> None:
        self.control = value & 3

    def virtual_control(self) -> int:
        sysregs = self.jit.sysregs
        met = self.now - sysregs.CNTVOFF_EL2 >= sysregs.CNTV_CVAL_EL0
        return self.control | (self.control & met) << 2

    def fires(self) -> bool:
        return self.virtual_control() & 7 == 5

    def hypervisor_fires(self) -> bool:
        sysregs = self.jit.sysregs
        return bool(sysregs.CNTHP_CTL_EL2 & 1) and self.now >= sysregs.CNTHP_CVAL_EL2

    @property
    def frame(self) -> GicrSgi:
        return GicrSgi.view(self.redistributor_frame.memory, BASE)

    def wait(self, ticks: int) -> None:
        self.now += ticks


@pytest.fixture(scope="module")
def machine() -> Clock:
    return Clock()


@pytest.fixture
def clock(machine: Clock) -> Clock:
    machine.start()
    machine.unmask()
    machine.enable(VIRTUAL)
    machine.enable(PHYSICAL)
    return machine


def arm_virtual(clock: Clock, ticks: int) -> None:
    """Guest: no trap."""
    clock.jit.sysregs.CNTV_CVAL_EL0 = clock.now - clock.jit.sysregs.CNTVOFF_EL2 + ticks
    clock.control = 1


def interrupt(clock: Clock) -> None:
    """PPI 27 arrives at EL2."""
    assert clock.fires() and not clock.active
    assert clock.call(timer.interrupt, clock.at[0])
    assert clock.active
    clock.settle()


def test_virtual_time_starts_at_zero(clock: Clock) -> None:
    assert clock.now - clock.jit.sysregs.CNTVOFF_EL2 == 0


def test_the_virtual_timer_goes_through_a_hardware_list_register(clock: Clock) -> None:
    for _ in range(3):
        clock.interface.deactivated.clear()
        arm_virtual(clock, 100)
        clock.wait(100)
        interrupt(clock)
        (lr,) = clock.interface.contents()
        assert lr >> 61 & 1 == 1 and lr >> 32 & 0x3FF == VIRTUAL
        assert clock.interface.acknowledge() == VIRTUAL
        clock.control = 0
        clock.interface.end(VIRTUAL)
        assert clock.interface.deactivated == [VIRTUAL]
        assert clock.interface.acknowledge() == SPURIOUS
        assert not clock.interface.maintenance()
        clock.active = False


def test_a_trace_of_the_hosts_timer_is_nothing(clock: Clock) -> None:
    assert not clock.call(timer.interrupt, clock.at[0])
    assert not clock.call(timer.hypervisor_interrupt, clock.at[0])
    assert not clock.call(vgic.maintenance, clock.at[0])
    clock.settle()
    assert not clock.active
    assert clock.interface.acknowledge() == SPURIOUS


@pytest.mark.parametrize("by", [vgic.flush, vgic.maintenance])
def test_a_pending_interrupt_is_taken_back_when_the_timer_is_off(clock: Clock, by: Any) -> None:
    """At the next look of EL2: the guest's write to CNTV_CTL_EL0 doesn't trap."""
    arm_virtual(clock, 0)
    interrupt(clock)
    assert len(clock.interface.contents()) == 1
    clock.control = 0
    clock.vcpus[0].gic.stale = 1
    if by is vgic.maintenance:
        clock.jit.on_read("ICH_MISR_EL2", lambda: 1)
    clock.call(by, clock.at[0])
    clock.jit.on_read("ICH_MISR_EL2", clock.interface.maintenance)
    assert clock.interface.contents() == [] and clock.vcpus[0].timer.held == 0
    assert not clock.active, "else it would never come again"


def test_deactivated_at_the_redistributor(clock: Clock) -> None:
    """ICACTIVER0 instead of an end of interrupt: the hardware's becomes inactive too."""
    arm_virtual(clock, 0)
    interrupt(clock)
    assert clock.interface.acknowledge() == VIRTUAL
    clock.control = 0
    clock.access(clock.gicr + BASE + 0x380, 4, 1 << VIRTUAL)
    assert clock.vcpus[0].timer.held == 0 and not clock.active
    assert clock.interface.contents() == []


@pytest.mark.parametrize("physical", [False, True])
def test_made_active_by_hand_before_the_timer_fires(clock: Clock, physical: bool) -> None:
    """What lies in the list register learns of the timer: the interrupt comes once the guest has ended that."""
    intid = PHYSICAL if physical else VIRTUAL
    clock.access(clock.gicr + BASE + 0x300, 4, 1 << intid)
    assert [lr >> 62 for lr in clock.interface.contents()] == [2]
    if physical:
        clock.call(timer.set_physical, clock.at[0], 1, 0)
        clock.settle()
    else:
        arm_virtual(clock, 0)
        interrupt(clock)
        (lr,) = clock.interface.contents()
        assert lr >> 61 & 1 == 1, "the guest's end of interrupt makes the hardware's inactive"
    assert clock.interface.acknowledge() == SPURIOUS
    clock.jit.sysregs.ICH_AP1R0_EL2 = 1 << 20
    clock.interface.end(intid)
    clock.settle()
    if not physical:
        assert clock.interface.deactivated == [VIRTUAL]
        clock.active = False
        interrupt(clock)
    assert clock.interface.acknowledge() == intid


def test_made_pending_by_hand_while_it_is_active(clock: Clock) -> None:
    """A list register of the hardware's is never pending and active (IHI 0069, ICH_LR<n>_EL2); it comes afterwards."""
    arm_virtual(clock, 0)
    interrupt(clock)
    assert clock.interface.acknowledge() == VIRTUAL
    clock.control = 0
    clock.access(clock.gicr + BASE + 0x200, 4, 1 << VIRTUAL)
    assert [lr >> 61 for lr in clock.interface.contents()] == [2 << 1 | 1]
    clock.interface.end(VIRTUAL)
    clock.vcpus[0].gic.dirty = 1
    clock.settle()
    assert clock.interface.acknowledge() == VIRTUAL


def test_an_active_interrupt_of_a_timer_wakes_nobody(clock: Clock) -> None:
    arm_virtual(clock, 0)
    interrupt(clock)
    assert clock.interface.acknowledge() == VIRTUAL
    clock.leave()
    deadline = clock.call(timer.deadline, clock.at[0])
    clock.enter(0)
    assert deadline == NEVER


def test_while_disabled_it_is_held_and_taken_back_when_the_line_falls(clock: Clock) -> None:
    """kvm-unit-tests' timer: pending is seen, and gone when the timer is off."""
    clock.access(clock.gicr + BASE + 0x180, 4, 1 << VIRTUAL)
    arm_virtual(clock, 0)
    interrupt(clock)
    assert clock.access(clock.gicr + BASE + 0x200, 4) == 1 << VIRTUAL
    assert clock.interface.contents() == []
    clock.control = 0
    assert clock.access(clock.gicr + BASE + 0x200, 4) == 0
    assert not clock.active
    clock.access(clock.gicr + BASE + 0x100, 4, 1 << VIRTUAL)
    assert clock.interface.acknowledge() == SPURIOUS


def test_pending_is_seen_before_the_interrupt_was_taken(clock: Clock) -> None:
    clock.access(clock.gicr + BASE + 0x180, 4, 1 << VIRTUAL)
    arm_virtual(clock, 0)
    assert clock.access(clock.gicr + BASE + 0x200, 4) == 1 << VIRTUAL


def test_active_across_a_switch_the_host_keeps_its_own(clock: Clock) -> None:
    host_deadline = clock.now + 5000
    clock.leave()
    clock.jit.sysregs.CNTV_CVAL_EL0 = host_deadline
    clock.control = 1
    clock.enter(0)
    arm_virtual(clock, 10)
    clock.wait(10)
    interrupt(clock)
    assert clock.interface.acknowledge() == VIRTUAL
    assert clock.active
    clock.leave()
    assert not clock.active
    assert (clock.control, clock.jit.sysregs.CNTV_CVAL_EL0) == (1, host_deadline)
    assert clock.jit.sysregs.CNTVOFF_EL2 == 0
    assert clock.jit.sysregs.CNTHCTL_EL2 == 3
    assert clock.jit.sysregs.CNTHP_CTL_EL2 == 0
    clock.enter(0)
    assert clock.active
    clock.control = 0
    clock.interface.end(VIRTUAL)
    assert clock.interface.deactivated[-1:] == [VIRTUAL]
    assert clock.interface.acknowledge() == SPURIOUS


def test_expired_while_out_is_there_at_once(clock: Clock) -> None:
    arm_virtual(clock, 100)
    clock.leave()
    assert clock.call(timer.deadline, clock.at[0]) == 100
    clock.wait(40)
    assert clock.call(timer.deadline, clock.at[0]) == 60
    clock.wait(60)
    assert clock.call(timer.deadline, clock.at[0]) == 0
    clock.enter(0)
    assert clock.interface.acknowledge() == VIRTUAL


def test_deadline_never(clock: Clock) -> None:
    clock.leave()
    assert clock.call(timer.deadline, clock.at[0]) == NEVER
    clock.enter(0)
    arm_virtual(clock, 100)
    clock.control = 3
    clock.leave()
    assert clock.call(timer.deadline, clock.at[0]) == NEVER
    clock.enter(0)
    clock.control = 1
    clock.access(clock.gicr + BASE + 0x180, 4, 1 << VIRTUAL)
    clock.leave()
    assert clock.call(timer.deadline, clock.at[0]) == NEVER
    clock.enter(0)


def test_the_hosts_deadline_lies_on_the_hypervisor_timer(clock: Clock) -> None:
    clock.leave()
    clock.jit.sysregs.CNTV_CVAL_EL0 = clock.now + 500
    clock.control = 1
    clock.enter(0)
    assert clock.now + 500 == clock.jit.sysregs.CNTHP_CVAL_EL2
    assert clock.frame.ISENABLER0 == 1 << VIRTUAL | 1 << HYPERVISOR | 1 << MAINTENANCE
    clock.wait(499)
    assert not clock.hypervisor_fires()
    clock.wait(1)
    assert clock.hypervisor_fires()
    assert not clock.call(timer.hypervisor_interrupt, clock.at[0])
    clock.leave()
    clock.control = 2 | 1
    clock.enter(0)
    assert not clock.hypervisor_fires()


def test_physical_timer(clock: Clock) -> None:
    """It shares the hypervisor timer with the host: the earlier first, each its own."""
    clock.leave()
    host = clock.now + 1000
    clock.jit.sysregs.CNTV_CVAL_EL0 = host
    clock.control = 1
    clock.enter(0)
    clock.call(timer.set_physical, clock.at[0], 1, clock.now + 300)
    assert clock.now + 300 == clock.jit.sysregs.CNTHP_CVAL_EL2
    clock.wait(300)
    assert clock.hypervisor_fires()
    assert clock.call(timer.hypervisor_interrupt, clock.at[0])
    clock.settle()
    assert host == clock.jit.sysregs.CNTHP_CVAL_EL2 and not clock.hypervisor_fires()
    assert clock.call(timer.physical_control, clock.at[0]) == 5
    assert clock.interface.acknowledge() == PHYSICAL
    clock.interface.end(PHYSICAL)
    clock.settle()
    assert clock.interface.acknowledge() == PHYSICAL, "a level: still asserted"
    clock.call(timer.set_physical, clock.at[0], 1, clock.now + 50)
    clock.settle()
    clock.interface.end(PHYSICAL)
    clock.settle()
    assert clock.interface.acknowledge() == SPURIOUS
    assert clock.now + 50 == clock.jit.sysregs.CNTHP_CVAL_EL2
    clock.leave()
    assert clock.call(timer.deadline, clock.at[0]) == 50
    clock.wait(60)
    clock.enter(0)
    assert clock.interface.acknowledge() == PHYSICAL
    clock.call(timer.set_physical, clock.at[0], 3, clock.now)
    assert clock.call(timer.physical_control, clock.at[0]) == 7
    clock.call(timer.set_physical, clock.at[0], 0, clock.now)
    assert clock.call(timer.physical_control, clock.at[0]) == 0


def test_wfi_with_an_expired_timer_does_not_leave(clock: Clock) -> None:
    clock.vm.capabilities = 4
    clock.vcpus[0].idle = 1
    assert clock.call(vgic.leave_idle, clock.at[0]) == Outcome.LEAVE
    for arm in (
        lambda: arm_virtual(clock, 0),
        lambda: clock.call(timer.set_physical, clock.at[0], 1, clock.now),
    ):
        arm()
        clock.vcpus[0].idle = 1
        assert clock.call(vgic.leave_idle, clock.at[0]) == Outcome.RESUME
        clock.settle()
        clock.control = 0
        clock.call(timer.set_physical, clock.at[0], 0, 0)
        clock.settle()
        while (intid := clock.interface.acknowledge()) != SPURIOUS:
            clock.interface.end(intid)
            clock.settle()


@pytest.mark.parametrize("seed", range(8))
def test_every_deadline_fires_once_and_in_time(machine: Clock, seed: int) -> None:
    """Two vCPUs, switches at random moments: no interrupt early, none lost, none twice."""
    rng = random.Random(seed)
    machine.start(count=2)
    for vcpu in range(2):
        machine.switch(vcpu)
        machine.unmask()
        machine.enable(VIRTUAL, priority=0x40)
        machine.enable(PHYSICAL, priority=0x40)
    due: list[dict[int, int]] = [{}, {}]
    for _ in range(300):
        own = machine.own
        step = rng.random()
        if step < 0.3:
            machine.wait(rng.randrange(200))
        elif step < 0.5 and VIRTUAL not in due[own]:
            ticks = rng.randrange(400)
            arm_virtual(machine, ticks)
            due[own][VIRTUAL] = machine.now + ticks
        elif step < 0.7 and PHYSICAL not in due[own]:
            due[own][PHYSICAL] = machine.now + rng.randrange(400)
            machine.call(timer.set_physical, machine.at[own], 1, due[own][PHYSICAL])
            machine.settle()
        elif step < 0.8:
            machine.switch(1 - own)
        own = machine.own
        if machine.fires() and (not machine.active or VIRTUAL in machine.interface.deactivated):
            assert machine.call(timer.interrupt, machine.at[own])
            machine.settle()
        if machine.hypervisor_fires():
            assert machine.call(timer.hypervisor_interrupt, machine.at[own])
            machine.settle()
        taken: set[int] = set()
        while (intid := machine.interface.acknowledge()) != SPURIOUS:
            assert intid not in taken
            taken.add(intid)
            if intid == VIRTUAL:
                machine.control = 0
            else:
                machine.call(timer.set_physical, machine.at[own], 0, 0)
            machine.interface.end(intid)
            machine.settle()
        expected = {intid for intid, deadline in due[own].items() if deadline <= machine.now}
        assert taken == expected
        for intid in taken:
            del due[own][intid]
