# SPDX-License-Identifier: Apache-2.0
"""Stolen time (DEN0057): how long a vCPU that could run waited for its host, where its guest reads it.

The records of a VM's vCPUs lie in one frame of the core's, made when the guest first asks and read-only to it, in the
last 64 KiB of guest-physical addresses, where no slot is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.frames as frames
import gz.core.memory as memory
import gz.core.slots as slots
import gz.core.stage2 as stage2
from gz.abi.errors import Error
from gz.arm64.descriptors import Stage2 as Leaf
from gz.arm64.stolen_time import RECORD_SIZE, StolenTime
from gz.arm64.sysreg import sysreg
from gz.bits import Held, Ipa, Pa, u32, u64
from gz.metal import cold, fetch_add, inline, load_acquire, store_release, view, write_once

if TYPE_CHECKING:
    from gz.core.vcpu import Vcpu
    from gz.core.vm import Vm

_NEVER_EXECUTED = int(Leaf(XN=2))
_NANOSECONDS = 1_000_000_000


@inline
def stop(vcpu: Vcpu) -> None:
    """The host takes the CPU from a vCPU that would go on."""
    vcpu.taken = max(sysreg.CNTPCT_EL0, 1)
    vcpu.yielded = 0
    fetch_add(vcpu.vm.waiting, 1)


@cold
def resume(vcpu: Vcpu) -> None:
    """It has a CPU again after `stop`."""
    now = sysreg.CNTPCT_EL0
    vcpu.waited += now - min(vcpu.taken, now)
    forget(vcpu)
    _write(vcpu)


@cold
def forget(vcpu: Vcpu) -> None:
    """It does not wait for a CPU: it has one, or none of what it did goes on."""
    if vcpu.taken != 0:
        vcpu.taken = 0
        fetch_add(vcpu.vm.waiting, ~u32(0))


@cold
def record(vcpu: Vcpu) -> Ipa:
    """Where the guest of the vCPU that runs here reads its record; Ipa(0): there is no memory for one."""
    vm = vcpu.vm
    if load_acquire(vm.stolen) == 0:
        locked = slots.acquire(vcpu)
        _create(locked)
        slots.release(locked)
        if vm.stolen == 0:
            return Ipa(0)
    _write(vcpu)
    return slots.stolen_time() + RECORD_SIZE * vcpu.index


def _create(vm: Held[Vm]) -> None:
    if vm.stolen != 0:
        return
    frame = frames.allocate()
    if frame == 0:
        return
    memory.clean(frame, frames.FRAME_SIZE)  # what was there before is nothing for a guest with its caches off
    attributes = (stage2.guest_memory() & ~u64(stage2.WRITABLE)) | _NEVER_EXECUTED
    if stage2.map(vm.stage2, slots.stolen_time(), frame, frames.FRAME_SIZE, attributes) != Error.NO_ERROR:
        frames.free(frame)
        return
    vm.frame_count += 1
    store_release(vm.stolen, frame)


@inline
def _write(vcpu: Vcpu) -> None:
    frame = Pa(u64(load_acquire(vcpu.vm.stolen)))
    if frame != 0:
        frequency = max(u64(sysreg.CNTFRQ_EL0), 1)
        seconds = vcpu.waited // frequency
        rest = vcpu.waited % frequency
        place = view(StolenTime, memory.va(frame) + RECORD_SIZE * vcpu.index)
        write_once(place.stolen, seconds * _NANOSECONDS + rest * _NANOSECONDS // frequency)
