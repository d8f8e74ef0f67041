# SPDX-License-Identifier: Apache-2.0
"""A guest that waits by WFE gives its CPU away while another of its vCPUs waits for one: once, and not for nothing."""

from __future__ import annotations

import random
from typing import Any

import pytest
from caller import Host, finish, make_vm

import gz.core.enter as enter
from gz.abi.calls import Call, smc64
from gz.abi.exits import ExitReason
from gz.bits.annotation import type_of
from gz.core.vcpu import Vcpu
from gz.metal.values import view_at

WFE = 0x01 << 26 | 1 << 25 | 1
TWE = 1 << 14


@pytest.fixture(scope="module")
def compiled() -> Host:
    return Host(enter.lower_sync)


@pytest.fixture
def host(compiled: Host) -> Host:
    compiled.reset()
    compiled.jit.sysregs.CNTPCT_EL0 = 1000
    return compiled


def vcpu(host: Host, vmid: int, index: int) -> Any:
    return view_at(type_of(Vcpu), host.vm(vmid).vcpus[index])


def turn_on(host: Host, vmid: int) -> None:
    """The second vCPU, without the first one's help."""
    vcpu(host, vmid, 1).power = 0


def enter_guest(host: Host, vmid: int, index: int) -> int:
    """RUN, and the context that runs afterwards."""
    host.x[0], host.x[1] = smc64(Call.RUN), vmid << 16 | index
    below = host.jit.raw("gz.core.calls.hypercall")(host.context, 0)
    assert below != host.context
    return below


def interrupt(host: Host, below: int) -> None:
    assert host.jit.raw("gz.core.enter.lower_irq")(below) == host.context
    assert host.x[1] == ExitReason.IRQ


def wfe(host: Host, below: int) -> bool:
    """Does it end in the host?"""
    host.jit.sysregs.ESR_EL2 = WFE
    return host.jit.raw("gz.core.enter.lower_sync")(below) == host.context


def traps(host: Host) -> bool:
    return host.jit.sysregs.HCR_EL2 & TWE != 0


def test_nobody_waits(host: Host) -> None:
    """The VM's only runnable vCPU, interrupted or not: WFE is the CPU's own."""
    vmid = make_vm(host)
    for _ in range(3):
        below = enter_guest(host, vmid, 0)
        assert not traps(host) and host.vm(vmid).waiting == 0
        interrupt(host, below)
        assert not traps(host) and host.vm(vmid).waiting == 1
    finish(host)


def test_one_waits(host: Host) -> None:
    vmid = make_vm(host)
    turn_on(host, vmid)
    interrupt(host, enter_guest(host, vmid, 0))
    below = enter_guest(host, vmid, 1)
    assert traps(host)
    host.jit.sysregs.ELR_EL2 = 0x8000_1000
    assert wfe(host, below) and host.x[1] == ExitReason.GZ and host.x[0] == 0
    assert vcpu(host, vmid, 1).context.elr == 0x8000_1004, "the WFE is done"
    assert not traps(host), "the host's own WFE"
    assert host.vm(vmid).waiting == 2


def test_once_until_the_next_interrupt(host: Host) -> None:
    """A host that comes back at once finds the guest going on."""
    vmid = make_vm(host)
    turn_on(host, vmid)
    interrupt(host, enter_guest(host, vmid, 0))
    assert wfe(host, enter_guest(host, vmid, 1))
    below = enter_guest(host, vmid, 1)
    assert not traps(host)
    interrupt(host, below)
    assert wfe(host, enter_guest(host, vmid, 1)), "and after one it gives way again"
    interrupt(host, enter_guest(host, vmid, 0))
    finish(host)


def test_who_waited_runs_meanwhile(host: Host) -> None:
    """On another CPU: the trap is of no use any more, and goes."""
    vmid = make_vm(host)
    turn_on(host, vmid)
    interrupt(host, enter_guest(host, vmid, 0))
    below = enter_guest(host, vmid, 1)
    host.vm(vmid).waiting = 0
    assert traps(host) and not wfe(host, below) and not traps(host)
    host.vm(vmid).waiting = 1
    interrupt(host, below)
    finish(host)


def test_who_is_gone_does_not_wait(host: Host) -> None:
    vmid = make_vm(host)
    turn_on(host, vmid)
    interrupt(host, enter_guest(host, vmid, 1))
    assert host.vm(vmid).waiting == 1
    host.good(Call.DESTROY_VCPU, vmid << 16 | 1)
    assert host.vm(vmid).waiting == 0
    interrupt(host, enter_guest(host, vmid, 0))
    finish(host)


@pytest.mark.parametrize("seed", range(4))
def test_a_bound_whatever_happens(host: Host, seed: int) -> None:
    """Of interrupts and WFEs in any order: no vCPU gives way twice between two interrupts of its
    own, and the VM knows how many of its vCPUs wait."""
    chance = random.Random(seed)
    vmid = make_vm(host)
    turn_on(host, vmid)
    gave = [0, 0]
    for step in range(200):
        index = chance.randrange(2)
        below = enter_guest(host, vmid, index)
        while traps(host) and chance.random() < 0.7:
            if wfe(host, below):
                gave[index] += 1
                assert gave[index] == 1, (seed, step)
                below = 0
                break
        if below != 0:
            interrupt(host, below)
            gave[index] = 0
        waiting = sum(vcpu(host, vmid, i).taken != 0 for i in range(2))
        assert host.vm(vmid).waiting == waiting, (seed, step)
    finish(host)
