# SPDX-License-Identifier: Apache-2.0
"""RUN: from the host into a vCPU."""

from __future__ import annotations

import gz.core.advance as advance
import gz.core.exits as exits
import gz.core.lifecycle as lifecycle
import gz.core.trace as trace
import gz.core.vgic as vgic
import gz.core.world as world
from gz.bits import u64
from gz.core.context import Context
from gz.core.trace import Event
from gz.core.vcpu import Power, Vcpu
from gz.metal import cold, compare_exchange, load_acquire, store_release


def run(host: Context, vcpu: Vcpu, doorbell: bool) -> Context:
    """Gives the context to resume: the vCPU's, or the host's with an exit reason in x1."""
    cpu = host.cpu
    if compare_exchange(vcpu.running, 0, cpu.index + 1) != 0:
        return answer(host, exits.fail_entry(vcpu, cpu.index), doorbell)
    cpu.by_doorbell = 1 if doorbell else 0
    if doorbell and exits.immediate(vcpu):
        return _decline(host, vcpu, exits.nothing(vcpu), doorbell)
    if load_acquire(vcpu.power) != Power.ON:
        if not lifecycle.power_up(vcpu):
            return _decline(host, vcpu, exits.parked(vcpu), doorbell)
    if vcpu.idle != 0 and vgic.sleeps(vcpu):
        # The driver wakes all of a VM at once (gzvm ABI 2.7): most of them turn over here and sleep on.
        return _decline(host, vcpu, exits.parked(vcpu), doorbell)
    vcpu.idle = 0
    vcpu.started = 1
    vcpu.vm.started = 1
    if vcpu.access.active != 0 and not exits.finish(vcpu):
        return _decline(host, vcpu, vcpu.exit, doorbell)
    world.enter(cpu, vcpu)
    trace.record(cpu, Event.ENTER, trace.of(vcpu), vcpu.context.elr, vcpu.context.spsr)
    if vcpu.gic.dirty != 0:
        vgic.flush(vcpu)
    return vcpu.context


def answer(host: Context, reason: u64, doorbell: bool) -> Context:
    host.x[0] = 0
    host.x[1] = reason
    if doorbell:
        advance.skip()
    return host


@cold
def _decline(host: Context, vcpu: Vcpu, reason: u64, doorbell: bool) -> Context:
    store_release(vcpu.running, 0)
    return answer(host, reason, doorbell)
