# SPDX-License-Identifier: Apache-2.0
"""Memory slots: where in a guest's address space the host means to supply memory (gzvm ABI 1.6, 2.1, 2.2).

All but `find` is called with the VM's lock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.list_registers as list_registers
import gz.core.lock as lock
import gz.core.stage2 as stage2
import gz.core.vgic as vgic
import gz.core.vm as vms
from gz.abi.errors import Error
from gz.abi.memory import BLOCK_PAGES, SLOTS_MAX, Access, Purpose
from gz.arm64.descriptors import PAGE_SHIFT, VALID
from gz.arm64.stolen_time import WINDOW_SIZE
from gz.bits import Held, Ipa, Pa, Struct, i64, u32, u64
from gz.core.work import Stage
from gz.metal import held, inline, load_acquire, peek64, popcount, read_once, releases, store_release

if TYPE_CHECKING:
    from gz.core.vcpu import Vcpu
    from gz.core.vm import Vm

_PRIVATE = Purpose.GUEST_MEMORY | Purpose.PROTECTED_FIRMWARE  # once a VM is protected


class Slot(Struct):
    base: Ipa
    page_count: u64  # 0: not declared; written last
    mapped: u64  # pages of it that the guest has, or a call reserved
    purpose: u32
    access: u32  # an Access


class Growth(Struct):
    """What an unannounced SET_MEMREGION populates, behind the end of its slot, until it has succeeded or failed."""

    number: u32  # of the slot, + 1; 0: none
    page_count: u64


class Announcement(Struct):
    """What MEMREGION_PURPOSE said about the declaration that follows it."""

    base: Ipa
    size: u64
    purpose: u64
    pending: u32
    ever: u32  # 0: this driver (G1) never announces, its SET_MEMREGION always populates


def find(vm: Vm, ipa: Ipa) -> Slot | None:
    """The slot that `ipa` lies in. Without lock: a slot being declared is seen or not."""
    for i in range(SLOTS_MAX):
        slot = vm.slots[i]
        count = load_acquire(slot.page_count)
        if ipa >= slot.base and (ipa - slot.base) >> PAGE_SHIFT < count:
            return slot
    return None


@inline
def backs(vm: Vm, ipa: Ipa) -> bool:
    """There is a slot whose memory the guest reaches."""
    slot = find(vm, ipa)
    return slot is not None and read_once(slot.access) != Access.NONE


@inline
def is_read_only(slot: Slot) -> bool:
    return read_once(slot.access) == Access.READ_ONLY


@inline
def stolen_time() -> Ipa:
    """The window at the end of guest-physical addresses that no slot takes (core/stolen_time.py)."""
    return Ipa(stage2.limit() - WINDOW_SIZE)


@inline
def in_range(base: Ipa, size: u64) -> bool:
    return stage2.in_range(base, size) and base + size <= stolen_time()


def announce(vm: Held[Vm], base: Ipa, size: u64, purpose: u64) -> i64:
    if not in_range(base, size) or purpose > Purpose.STATIC_SWIOTLB or popcount(purpose) > 1:
        return Error.INVALID_ARGS
    if vm.growth.number != 0:
        return Error.INVALID_ARGS
    announced = vm.announced
    announced.base = base
    announced.size = size
    announced.purpose = purpose
    announced.pending = 1
    announced.ever = 1
    return Error.NO_ERROR


def declare(vm: Held[Vm], number: u32, base: Ipa, page_count: u64, purpose: u64) -> i64:
    """A slot may be declared again as it is, and as another one while it is empty."""
    slot = vm.slots[number]
    if slot.page_count != 0 and vm.protected != 0 and slot.purpose != purpose:
        return Error.INVALID_ARGS
    if slot.page_count != 0 and slot.base == base and slot.page_count == page_count:
        slot.purpose = u32(purpose)
        return Error.NO_ERROR
    if slot.page_count == 0 or vm.protected == 0:
        return _place(vm, number, base, page_count, purpose)
    # A guest that begins to run meanwhile would have heard that the slot is private.
    if not vms.close(vm):
        return Error.INVALID_ARGS
    error: i64 = Error.INVALID_ARGS
    if not _settled(vm, slot):
        error = _place(vm, number, base, page_count, purpose)
    vms.open(vm)
    return error


def _place(vm: Vm, number: u32, base: Ipa, page_count: u64, purpose: u64) -> i64:
    slot = vm.slots[number]
    if slot.mapped != 0 or vm.growth.number != 0 or not _is_free(vm, number, base, page_count):
        return Error.INVALID_ARGS
    store_release(slot.page_count, 0)
    slot.base = base
    slot.purpose = u32(purpose)
    slot.access = Access.READ_WRITE
    store_release(slot.page_count, page_count)
    return Error.NO_ERROR


def are_open(vm: Held[Vm]) -> bool:
    """The guest reaches all of the memory that is its own once it is protected; then this stays so."""
    for i in range(SLOTS_MAX):
        slot = vm.slots[i]
        if slot.page_count != 0 and slot.access != Access.READ_WRITE and slot.purpose & _PRIVATE != 0:
            return False
    return True


@inline
def _settled(vm: Vm, slot: Slot) -> bool:
    """A protected guest relies on it, or it is where the core's firmware goes."""
    return vm.started != 0 or (vm.firmware_size != 0 and contains(slot, vm.firmware, 1))


def private(vm: Vm, base: Ipa, page_count: u64) -> bool:
    """Slots cover it whose memory is the guest's alone. For a guest that runs: such slots stay."""
    if page_count == 0 or page_count > (stage2.limit() - u64(base)) >> PAGE_SHIFT or u64(base) >= stage2.limit():
        return False
    at = base
    end = base + (page_count << PAGE_SHIFT)
    while at < end:
        slot = find(vm, at)
        if slot is None or not is_private(vm, slot):
            return False
        at = _end(slot)
    return True


def grow(vm: Held[Vm], number: u32, base: Ipa, page_count: u64) -> i64:
    """G1: the first call for a slot makes it, those that follow it continue it (gzvm ABI 1.6).

    Until `end_growth` the slot stays as it is; its new pages may be mapped.
    """
    slot = vm.slots[number]
    growth = vm.growth
    if contains(slot, base, page_count):
        return Error.NO_ERROR
    if growth.number != 0:
        same = growth.number == number + 1 and growth.page_count == page_count and base == _end(slot)
        return Error.NO_ERROR if same else i64(Error.INVALID_ARGS)
    if slot.page_count == 0:
        if slot.mapped != 0:
            return Error.INVALID_ARGS
    elif base != _end(slot):
        return Error.INVALID_ARGS
    if not _is_free(vm, number, base, page_count):
        return Error.INVALID_ARGS
    if slot.page_count == 0:
        slot.base = base
    growth.number = number + 1
    growth.page_count = page_count
    vm.work.stage = Stage.RESERVE  # whatever the host says how far it came
    vm.work.done = 0
    return Error.NO_ERROR


def end_growth(vm: Held[Vm], number: u32, base: Ipa, populated: bool) -> None:
    """If that is what grew."""
    growth = vm.growth
    slot = vm.slots[number]
    if growth.number != number + 1 or base != _end(slot):
        return
    if populated:
        store_release(slot.page_count, slot.page_count + growth.page_count)
    growth.number = 0


@inline
def _end(slot: Slot) -> Ipa:
    return slot.base + (slot.page_count << PAGE_SHIFT)


def extent(vm: Vm, number: u32) -> u64:
    """Pages from the slot's base on that may be mapped, or reserved."""
    growth = vm.growth
    return vm.slots[number].page_count + (growth.page_count if growth.number == number + 1 else 0)


@inline
def _is_free(vm: Vm, number: u32, base: Ipa, page_count: u64) -> bool:
    """No other slot than `number` has one of these pages, nor has the GIC."""
    return not overlap(vm, number, base, page_count << PAGE_SHIFT) and not vgic.occupies(
        vm, base, page_count << PAGE_SHIFT
    )


def overlap(vm: Vm, number: u32, base: Ipa, size: u64) -> bool:
    """Another slot than `number` has some of these bytes."""
    end = base + size
    for i in range(SLOTS_MAX):
        slot = vm.slots[i]
        reach = extent(vm, u32(i))
        if i != number and reach != 0 and slot.base < end and base < slot.base + (reach << PAGE_SHIFT):
            return True
    return False


@inline
def contains(slot: Slot, base: Ipa, page_count: u64) -> bool:
    if base < slot.base:
        return False
    first = (base - slot.base) >> PAGE_SHIFT
    return first < slot.page_count and page_count <= slot.page_count - first


@inline
def check_window(vm: Vm, number: u64, gfn: u64, count: u64) -> i64:
    if number >= SLOTS_MAX or count == 0 or count > BLOCK_PAGES or gfn >= stage2.limit() >> PAGE_SHIFT:
        return Error.INVALID_ARGS
    if not contains(vm.slots[number], Ipa(gfn << PAGE_SHIFT), count):
        return Error.INVALID_ARGS
    return Error.NO_ERROR


@inline
def is_private(vm: Vm, slot: Slot) -> bool:
    """What is mapped there is the guest's alone, until it shows it."""
    return vm.protected != 0 and slot.purpose & _PRIVATE != 0


def acquire(vcpu: Vcpu) -> Held[Vm]:
    """The lock of the VM whose vCPU runs here."""
    while not lock.attempt(vcpu.vm.lock):
        # Who holds the lock may wait for a call that waits for what is in our list registers.
        if read_once(vcpu.gic.recall) != 0:
            list_registers.surrender(vcpu)
    return held(vcpu.vm)


@inline
def acquire_for_host(vm: Vm) -> Held[Vm]:
    """The lock of any VM, for a call of the host's."""
    lock.acquire(vm.lock)
    return held(vm)


@inline
@releases
def release(vm: Held[Vm]) -> None:
    lock.release(vm.lock)


def output(vm: Vm, ipa: Ipa) -> Pa:
    """The page that the guest has there; Pa(0): none."""
    entry, shift = stage2.find(vm.stage2, ipa)
    leaf = peek64(entry)
    if leaf & VALID == 0:
        return Pa(0)
    return stage2.output(leaf) + (u64(ipa) & ((u64(1) << shift) - 1))
