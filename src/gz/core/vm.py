# SPDX-License-Identifier: Apache-2.0
"""A virtual machine: its objects and how it begins and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.frames as frames
import gz.core.lock as lock
import gz.core.reclaim as reclaim
import gz.core.stage2 as stage2
import gz.core.vgic_reset as vgic_reset
from gz.abi.calls import VCPUS_MAX
from gz.abi.errors import Error
from gz.abi.memory import SLOTS_MAX
from gz.arm64.insn import yield_
from gz.bits import Array, Held, Ipa, Pa, Ptr, Struct, array, i64, storage, u32, u64
from gz.core.cpu import CPU_COUNT_MAX
from gz.core.lock import Lock
from gz.metal import cold, fetch_add, fetch_and, fetch_or, held, inline, load_acquire, releases, store_release

if TYPE_CHECKING:
    from gz.core.interrupts import Vgic
    from gz.core.slots import Announcement, Growth, Slot
    from gz.core.stage2 import Stage2
    from gz.core.vcpu import Vcpu
    from gz.core.work import Work

VM_COUNT_MAX = 64  # VMIDs have 8 bits on the smallest CPUs, and 0 is the host's
VCPU_COUNT_MAX = VCPUS_MAX

#: `Vm.used`
FREE, MAKING, LIVE, ENDING = 0, 1, 2, 3
RESIDENT = 4  # core/resident.py: no call of the host's finds it
#: Bits of `Vm.capabilities`: what the driver enabled.
PAGING, BLOCK_PAGING, IDLE = 1, 2, 4

_CLOSED = 1 << 31  # in `Vm.users`


class Vm(Struct, align=64):
    lock: Lock
    used: u32
    users: u32  # CPUs between `hold` and `drop`; bit 31: closed
    vmid: u32  # handle and VMID: 1…
    resident: u32  # number + 1 of a guest that the loader brought, 0: the host made it
    smc64: u32  # made through an SMC64 id: the hwstate page has the timer fields
    quirks: u32
    watched: u32  # a set of Watch
    reset_pending: u32  # the guest asked for SYSTEM_RESET; the next write of vCPU 0's PC carries it out
    capabilities: u32
    mailbox: Pa  # block demand paging (capability 0x9201), 0: single pages
    stage2: Stage2
    work: Work  # of the call that has the lock
    announced: Announcement
    growth: Growth
    slots: Array[Slot] = array(SLOTS_MAX)
    protected: u32  # its ordinary memory is private, its registers are nobody's
    started: u32  # one of its vCPUs has run
    firmware: Ipa  # of a protected VM: where its firmware lies and its boot vCPU starts
    firmware_size: u64  # bytes from there on that are the core's to fill, 0: it has none
    guard: Pa  # of a protected VM: Guard
    waiting: u32  # vCPUs that the host took the CPU from (Vcpu.taken)
    stolen: Pa  # records of its vCPUs' stolen time; 0: the guest has not asked
    lent_count: u64  # pages of the host that it has
    private_count: u64  # those of them that the host cannot reach
    given_slots: u32  # while it ends: slots whose pages are the host's again
    given_back: Ipa  # and how far those of the next one are
    vcpus: Array[Ptr[Vcpu] | None] = array(VCPU_COUNT_MAX)
    vcpu_count: u32
    last_run: Array[u32] = array(CPU_COUNT_MAX)  # index + 1 of the vCPU that each CPU ran last, 0: none
    frame_count: u64  # frames of the core's pool for its vCPUs
    dtb: Ipa
    dtb_size: u64
    counter_offset: u64  # CNTVOFF_EL2 of all its vCPUs
    vgic: Vgic


class Registry(Struct):
    lock: Lock


VMS = storage(Vm, VM_COUNT_MAX)
registry = storage(Registry)


@inline
def find(vmid: u64) -> Vm | None:
    """The object behind a handle, whatever state it is in."""
    if vmid == 0 or vmid > VM_COUNT_MAX:
        return None
    return VMS[vmid - 1]


@inline
def hold(vm: Vm) -> bool:
    """Keep the VM's vCPUs from vanishing, without its lock: for a short time, until `drop`. False: not a live
    VM.

    A vCPU that runs keeps them as well.
    """
    if fetch_add(vm.users, 1) >= _CLOSED:
        _wait(vm)
    if load_acquire(vm.used) == LIVE:
        return True
    drop(vm)
    return False


@inline
def drop(vm: Vm) -> None:
    fetch_add(vm.users, ~u32(0))


@cold
def _wait(vm: Vm) -> None:
    """Closed: stand back until it is open again."""
    while True:
        drop(vm)
        while load_acquire(vm.users) >= _CLOSED:
            yield_()
        if fetch_add(vm.users, 1) < _CLOSED:
            return


def close(vm: Held[Vm]) -> bool:
    """Until `open` nobody holds the VM and no vCPU starts.

    False: one runs, it stays open.
    """
    fetch_or(vm.users, _CLOSED)
    while load_acquire(vm.users) != _CLOSED:
        yield_()
    for i in range(VCPU_COUNT_MAX):
        vcpu = vm.vcpus[i]
        if vcpu is not None and load_acquire(vcpu.running) != 0:
            open(vm)
            return False
    return True


def open(vm: Held[Vm]) -> None:
    fetch_and(vm.users, ~u32(_CLOSED))


@inline
def _acquire() -> Held[Registry]:
    lock.acquire(registry.lock)
    return held(registry)


@inline
@releases
def _release(locked: Held[Registry]) -> None:
    lock.release(locked.lock)


def create(smc64: bool) -> tuple[i64, u64]:
    """Error and handle of a new VM."""
    locked = _acquire()
    index: u64 = 0
    while index < VM_COUNT_MAX and VMS[index].used != FREE:
        index += 1
    if index == VM_COUNT_MAX:
        _release(locked)
        return Error.NO_MEMORY, 0
    vm = VMS[index]
    vm.used = MAKING
    _release(locked)
    vm.vmid = u32(index) + 1
    if not stage2.create(vm.stage2, vm.vmid):
        store_release(vm.used, FREE)
        return Error.NO_MEMORY, 0
    _reset(vm)
    vm.smc64 = 1 if smc64 else 0
    store_release(vm.used, LIVE)
    return Error.NO_ERROR, vm.vmid


def _reset(vm: Vm) -> None:
    """All but lock, users and stage 2: what the handle's previous VM left."""
    vm.resident = 0
    vm.quirks = 0
    vm.watched = 0
    vm.reset_pending = 0
    vm.capabilities = 0
    vm.mailbox = Pa(0)
    vm.announced.pending = 0
    vm.announced.ever = 0
    vm.growth.number = 0
    for i in range(SLOTS_MAX):
        slot = vm.slots[i]
        slot.page_count = 0
        slot.mapped = 0
        slot.purpose = 0
        slot.access = 0
    vm.protected = 0
    vm.started = 0
    vm.firmware = Ipa(0)
    vm.firmware_size = 0
    vm.guard = Pa(0)
    vm.waiting = 0
    vm.stolen = Pa(0)
    vm.lent_count = 0
    vm.private_count = 0
    vm.given_slots = 0
    vm.given_back = Ipa(0)
    for i in range(VCPU_COUNT_MAX):
        vm.vcpus[i] = None
    vm.vcpu_count = 0
    for i in range(CPU_COUNT_MAX):
        vm.last_run[i] = 0
    vm.frame_count = 0
    vm.dtb = Ipa(0)
    vm.dtb_size = 0
    vgic_reset.reset(vm)


def end(vm: Held[Vm], budget: u64) -> bool:
    """Of a VM that is ENDING and has no vCPUs: about `budget` pages (0: any number) go back to the host, as many as
    take a short time, then the tables' frames.

    True: it was the last of them; the VM is gone, its handle free.
    """
    left = reclaim.give_back(vm, budget)
    if vm.lent_count != 0 or not stage2.destroy(vm.stage2, 4 * left):
        return False
    vgic_reset.destroy(vm)
    if vm.guard != 0:
        frames.free(vm.guard)
    if vm.stolen != 0:
        frames.free(vm.stolen)
    store_release(vm.used, FREE)
    return True
