# SPDX-License-Identifier: Apache-2.0
"""Guest memory: slots, and the host's pages that come into them (gzvm ABI 1.6, 2.1, 2.2).

All but `find` is called with the VM's lock held. A call maps all of its pages or none: each page is first
lent and its leaf reserved, then all of them become valid. What the host may change meanwhile is read once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.coherency as coherency
import gz.core.firmware as firmware
import gz.core.host_memory as host_memory
import gz.core.list_registers as list_registers
import gz.core.lock as lock
import gz.core.memory as memory
import gz.core.pages as pages
import gz.core.stage2 as stage2
import gz.core.trace as trace
import gz.core.vgic as vgic
import gz.core.vm as vms
from gz.abi.errors import Error
from gz.abi.memory import (
    BLOCK_PAGES,
    BLOCK_SIZE,
    CONSTITUENTS_MAX,
    SLOTS_MAX,
    Access,
    Constituent,
    MemoryRegion,
    Purpose,
)
from gz.abi.run import PAGE_SIZE
from gz.arm64.descriptors import BLOCK_SHIFT, PAGE_SHIFT, VALID
from gz.arm64.stolen_time import WINDOW_SIZE
from gz.bits import Array, Held, Ipa, Pa, Struct, Va, i64, u32, u64
from gz.core.platform import machine
from gz.core.trace import Event
from gz.metal import (
    held,
    inline,
    load_acquire,
    peek64,
    poke64,
    popcount,
    read_once,
    releases,
    store_release,
    unroll,
    view,
    write_once,
)

if TYPE_CHECKING:
    from gz.core.vcpu import Vcpu
    from gz.core.vm import Vm

#: What one step of a VM's end costs, in units of the end of a page: about a hundred instructions.
_EFFORT = 120
_BLOCK_EFFORT = 32
_WIPE_EFFORT = 8
_PFN_LIMIT = 1 << (48 - PAGE_SHIFT)
_POPULATE_PAGES_MAX = 1 << 18  # in one call: the longest that the core is busy
_PRIVATE = Purpose.GUEST_MEMORY | Purpose.PROTECTED_FIRMWARE  # once a VM is protected
_GROUP = 8  # words of the mailbox that are looked at together


class Slot(Struct):
    base: Ipa
    page_count: u64  # 0: not declared; written last
    mapped: u64  # pages of it that the guest has
    purpose: u32
    access: u32  # an Access


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
def _in_range(base: Ipa, size: u64) -> bool:
    return stage2.in_range(base, size) and base + size <= stolen_time()


def announce(vm: Held[Vm], base: Ipa, size: u64, purpose: u64) -> i64:
    if not _in_range(base, size) or purpose > Purpose.STATIC_SWIOTLB or popcount(purpose) > 1:
        return Error.INVALID_ARGS
    announced = vm.announced
    announced.base = base
    announced.size = size
    announced.purpose = purpose
    announced.pending = 1
    announced.ever = 1
    return Error.NO_ERROR


def set_region(vm: Held[Vm], buffer: Pa) -> i64:
    """SET_MEMREGION; `buffer` is two pages shared with the core.

    The call after an announcement declares the slot.
    """
    head = view(MemoryRegion, memory.va(buffer))
    number = read_once(head.slot)
    count = read_once(head.constituent_count)
    total = read_once(head.total_pages)
    base = Ipa(read_once(head.gpa))
    if number >= SLOTS_MAX or total > stage2.limit() >> PAGE_SHIFT or not _in_range(base, total << PAGE_SHIFT):
        return Error.INVALID_ARGS
    slot = vm.slots[number]
    announced = vm.announced
    if announced.pending != 0 and base == announced.base:
        if total << PAGE_SHIFT != announced.size:
            return Error.INVALID_ARGS
        error = _declare(vm, number, base, total, announced.purpose)
        if error == Error.NO_ERROR:
            announced.pending = 0
        return error
    if count == 0 or count > CONSTITUENTS_MAX or total > _POPULATE_PAGES_MAX:
        return Error.INVALID_ARGS
    if announced.ever == 0:
        if vm.protected != 0:  # nobody said which of it is private
            return Error.INVALID_ARGS
        return _populate_unannounced(vm, number, buffer, base, total, count)
    if not _contains(slot, base, total):
        return Error.INVALID_ARGS
    return _populate(vm, slot, buffer, base, total, count)


def _declare(vm: Held[Vm], number: u32, base: Ipa, page_count: u64, purpose: u64) -> i64:
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
    if slot.mapped != 0 or not _is_free(vm, number, base, page_count):
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


def set_access(vm: Held[Vm], number: u64, access: u64, first: u64) -> tuple[i64, u64]:
    """From its page `first` on the slot becomes `access`: what is mapped there goes back to the host, in steps of a
    block, and comes again when the guest asks for it. Gives the page to go on at.
    """
    if number >= SLOTS_MAX or access > Access.NONE:
        return Error.INVALID_ARGS, 0
    slot = vm.slots[number]
    if first >= slot.page_count or is_private(vm, slot):
        return Error.INVALID_ARGS, 0
    previous = slot.access
    write_once(slot.access, u32(access))
    end = slot.base + (slot.page_count << PAGE_SHIFT)
    at = slot.base + (first << PAGE_SHIFT)
    while at < end:
        entry, shift = stage2.find(vm.stage2, at)
        following = min(stage2.after(at, max(shift, BLOCK_SHIFT)), end)
        if peek64(entry) != 0 or shift == PAGE_SHIFT:
            error = _withhold(vm, slot, at, following - at)
            if error != Error.NO_ERROR:
                write_once(slot.access, previous)
            return error, (following - slot.base) >> PAGE_SHIFT
        at = following
    return Error.NO_ERROR, slot.page_count


def _withhold(vm: Held[Vm], slot: Slot, base: Ipa, size: u64) -> i64:
    error, gone = stage2.revoke(vm.stage2, base, size)
    if error != Error.NO_ERROR:
        return error
    _cancel(vm, slot, base, size >> PAGE_SHIFT)
    slot.mapped -= gone >> PAGE_SHIFT
    vm.lent_count -= gone >> PAGE_SHIFT
    trace.record_here(Event.UNMAP, vm.vmid << 16, u64(base), size)
    return Error.NO_ERROR


@inline
def _settled(vm: Vm, slot: Slot) -> bool:
    """A protected guest relies on it, or it is where the core's firmware goes."""
    return vm.started != 0 or (vm.firmware_size != 0 and _contains(slot, vm.firmware, 1))


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
        at = slot.base + (slot.page_count << PAGE_SHIFT)
    return True


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
        declared = i != number and slot.page_count != 0
        if declared and slot.base < end and base < slot.base + (slot.page_count << PAGE_SHIFT):
            return True
    return False


@inline
def _contains(slot: Slot, base: Ipa, page_count: u64) -> bool:
    if base < slot.base:
        return False
    first = (base - slot.base) >> PAGE_SHIFT
    return first < slot.page_count and page_count <= slot.page_count - first


def _populate_unannounced(vm: Held[Vm], number: u32, buffer: Pa, base: Ipa, total: u64, count: u32) -> i64:
    """G1: the first call for a slot makes it, those that follow it continue it (gzvm ABI 1.6)."""
    slot = vm.slots[number]
    known = _contains(slot, base, total)
    grown = total
    start = base
    if slot.page_count != 0:
        start = slot.base
        grown = slot.page_count + total
    if not known:
        if slot.page_count != 0 and base != slot.base + (slot.page_count << PAGE_SHIFT):
            return Error.INVALID_ARGS
        if not _is_free(vm, number, start, grown):
            return Error.INVALID_ARGS
    error = _populate(vm, slot, buffer, base, total, count)
    if error == Error.NO_ERROR and not known:
        slot.base = start
        store_release(slot.page_count, grown)
    return error


def _populate(vm: Held[Vm], slot: Slot, buffer: Pa, base: Ipa, total: u64, count: u32) -> i64:
    runs = view(Array[Constituent], memory.va(buffer) + MemoryRegion.size, CONSTITUENTS_MAX)
    done: u64 = 0
    for i in range(count):
        run_pages = u64(read_once(runs[i].page_count))
        error: i64 = Error.INVALID_ARGS
        if run_pages != 0 and run_pages <= total - done:
            error = _reserve(vm, slot, base + (done << PAGE_SHIFT), Pa(read_once(runs[i].address)), run_pages)
        if error != Error.NO_ERROR:
            _cancel(vm, slot, base, min(done + run_pages, total))
            return error
        done += run_pages
    if done != total:
        _cancel(vm, slot, base, done)
        return Error.INVALID_ARGS
    _commit(vm, slot, base, total)
    return Error.NO_ERROR


def map_pages(vm: Held[Vm], number: u64, pfn: u64, gfn: u64, count: u64) -> i64:
    """MAP_GUEST: adjacent pages."""
    error = _check_window(vm, number, gfn, count)
    if error != Error.NO_ERROR:
        return error
    slot = vm.slots[number]
    base = Ipa(gfn << PAGE_SHIFT)
    error = Error.INVALID_ARGS
    if pfn < _PFN_LIMIT:
        error = _reserve(vm, slot, base, Pa(pfn << PAGE_SHIFT), count)
    if error != Error.NO_ERROR:
        _cancel(vm, slot, base, count)
        return error
    _commit(vm, slot, base, count)
    return Error.NO_ERROR


def map_block(vm: Held[Vm], number: u64, gfn: u64, count: u64) -> i64:
    """MAP_GUEST_BLOCK: the pages that the mailbox lists; runs of adjacent ones go in one, 512 aligned ones as
    a block.
    """
    if vm.mailbox == 0:
        return Error.INVALID_ARGS
    error = _check_window(vm, number, gfn, count)
    if error != Error.NO_ERROR:
        return error
    slot = vm.slots[number]
    base = Ipa(gfn << PAGE_SHIFT)
    mailbox = memory.va(vm.mailbox)
    done: u64 = 0
    while done < count:
        first = peek64(mailbox + 8 * done)
        run = 1 + _adjacent(mailbox + 8 * (done + 1), first + 1, count - done - 1)
        error = Error.INVALID_ARGS
        if first < _PFN_LIMIT:
            error = _reserve(vm, slot, base + (done << PAGE_SHIFT), Pa(first << PAGE_SHIFT), run)
        if error != Error.NO_ERROR:
            _cancel(vm, slot, base, count)
            return error
        done += run
    _commit(vm, slot, base, count)
    return Error.NO_ERROR


def _adjacent(entries: Va, first: u64, count: u64) -> u64:
    """How many of `count` words go on counting from `first`. No word that was not found so is used."""
    run: u64 = 0
    same = count != 0 and peek64(entries) == first
    while same and count - run >= _GROUP:
        different: u64 = 0
        for i in unroll(range(_GROUP)):
            different |= peek64(entries + 8 * (run + i)) ^ (first + run + i)
        same = different == 0
        if same:
            run += _GROUP
    while run < count and peek64(entries + 8 * run) == first + run:
        run += 1
    return run


@inline
def _check_window(vm: Vm, number: u64, gfn: u64, count: u64) -> i64:
    if number >= SLOTS_MAX or count == 0 or count > BLOCK_PAGES or gfn >= stage2.limit() >> PAGE_SHIFT:
        return Error.INVALID_ARGS
    if not _contains(vm.slots[number], Ipa(gfn << PAGE_SHIFT), count):
        return Error.INVALID_ARGS
    return Error.NO_ERROR


@inline
def is_private(vm: Vm, slot: Slot) -> bool:
    """What is mapped there is the guest's alone, until it shows it."""
    return vm.protected != 0 and slot.purpose & _PRIVATE != 0


def _reserve(vm: Held[Vm], slot: Slot, ipa: Ipa, pa: Pa, page_count: u64) -> i64:
    """Lend or donate adjacent pages and reserve their leaves; those that the guest has just there already stay as they
    are.
    """
    if u64(pa) & (PAGE_SIZE - 1) != 0:
        return Error.INVALID_ARGS
    size = page_count << PAGE_SHIFT
    if slot.access == Access.NONE:
        return Error.INVALID_ARGS
    attributes = stage2.guest_memory()
    if slot.access == Access.READ_ONLY:
        attributes &= ~u64(stage2.WRITABLE)
    done: u64 = 0
    while done < size:
        error, span, new = stage2.reserve(vm.stage2, ipa + done, pa + done, size - done, attributes)
        if error != Error.NO_ERROR:
            return error
        if new:
            error = _take(vm, slot, pa + done, span)
            if error != Error.NO_ERROR:
                stage2.drop(vm.stage2, ipa + done)
                return error
        done += span
    return Error.NO_ERROR


def _take(vm: Held[Vm], slot: Slot, base: Pa, size: u64) -> i64:
    if not is_private(vm, slot):
        return Error.NO_ERROR if pages.lend(base, size >> PAGE_SHIFT, vm.vmid) else Error.INVALID_ARGS
    if not pages.donate(base, size >> PAGE_SHIFT, vm.vmid):
        return Error.INVALID_ARGS
    if host_memory.prepare(base, size):
        return Error.NO_ERROR
    _reclaim(vm, base, size)
    return Error.NO_MEMORY


def _cancel(vm: Held[Vm], slot: Slot, base: Ipa, page_count: u64) -> None:
    at = base
    end = base + (page_count << PAGE_SHIFT)
    while at < end:
        entry, shift = stage2.find(vm.stage2, at)
        leaf = peek64(entry)
        if stage2.is_reserved(leaf):
            if is_private(vm, slot):
                host_memory.merge(stage2.output(leaf))
                _reclaim(vm, stage2.output(leaf), u64(1) << shift)
            else:
                _take_back(vm, stage2.output(leaf), u64(1) << shift)
        at = stage2.after(at, shift)
    stage2.cancel(vm.stage2, base, page_count << PAGE_SHIFT)


def _commit(vm: Held[Vm], slot: Slot, base: Ipa, page_count: u64) -> None:
    """The host loses private pages before the guest has them."""
    if is_private(vm, slot):
        vm.private_count += _withdraw(vm, base, page_count) >> PAGE_SHIFT
        if vm.firmware_size != 0 and slot.purpose == Purpose.PROTECTED_FIRMWARE:
            _fill(vm, base, page_count)
    if machine.forces_write_back == 0:
        _clean(vm, base, page_count)
    coherency.refetch()
    fresh = stage2.commit(vm.stage2, base, page_count << PAGE_SHIFT) >> PAGE_SHIFT
    slot.mapped += fresh
    vm.lent_count += fresh
    trace.record_here(Event.MAP, vm.vmid << 16, u64(base), page_count << PAGE_SHIFT)


def _withdraw(vm: Held[Vm], base: Ipa, page_count: u64) -> u64:
    """The reserved leaves' pages go out of the host's stage 2; gives their bytes."""
    gone: u64 = 0
    at = base
    end = base + (page_count << PAGE_SHIFT)
    while at < end:
        entry, shift = stage2.find(vm.stage2, at)
        leaf = peek64(entry)
        if stage2.is_reserved(leaf):
            host_memory.withdraw(stage2.output(leaf), u64(1) << shift)
            gone += u64(1) << shift
        at = stage2.after(at, shift)
    if gone != 0:
        host_memory.forget()
    return gone


def _fill(vm: Held[Vm], base: Ipa, page_count: u64) -> None:
    """The reserved leaves' pages, which nobody reaches, get what the core's firmware has there."""
    at = base
    end = base + (page_count << PAGE_SHIFT)
    while at < end:
        entry, shift = stage2.find(vm.stage2, at)
        leaf = peek64(entry)
        if stage2.is_reserved(leaf):
            for offset in range(0, u64(1) << shift, PAGE_SIZE):
                firmware.fill(at - vm.firmware + offset, stage2.output(leaf) + offset)
        at = stage2.after(at, shift)


def _clean(vm: Vm, base: Ipa, page_count: u64) -> None:
    """What lies in the reserved leaves' pages is all there is: nothing older below dirty lines (docs/core.md)."""
    at = base
    end = base + (page_count << PAGE_SHIFT)
    while at < end:
        entry, shift = stage2.find(vm.stage2, at)
        leaf = peek64(entry)
        if stage2.is_reserved(leaf):
            memory.clean(stage2.output(leaf), u64(1) << shift)
        at = stage2.after(at, shift)


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


def relinquish(vcpu: Vcpu, ipa: Ipa) -> i64:
    """A guest that runs here gives a page back (MEM_RELINQUISH): unmapped, wiped, the host's alone."""
    if u64(ipa) & (PAGE_SIZE - 1) != 0:
        return Error.INVALID_ARGS
    vm = acquire(vcpu)
    error = _relinquish(vm, ipa)
    release(vm)
    return error


def _relinquish(vm: Held[Vm], ipa: Ipa) -> i64:
    slot = find(vm, ipa)
    if slot is None:
        return Error.INVALID_ARGS
    page = output(vm, ipa)
    if page == 0:
        return Error.INVALID_ARGS
    if _is_hidden(page) and not host_memory.prepare(page, PAGE_SIZE):
        return Error.NO_MEMORY
    error = stage2.unmap(vm.stage2, ipa, PAGE_SIZE)
    if error != Error.NO_ERROR:
        return error
    if _is_hidden(page):
        _restore(vm, page, PAGE_SIZE)
    else:
        _wipe(page, PAGE_SIZE)
        _take_back(vm, page, PAGE_SIZE)
    slot.mapped -= 1
    vm.lent_count -= 1
    trace.record_here(Event.UNMAP, vm.vmid << 16, u64(ipa), PAGE_SIZE)
    return Error.NO_ERROR


def output(vm: Vm, ipa: Ipa) -> Pa:
    """The page that the guest has there; Pa(0): none."""
    entry, shift = stage2.find(vm.stage2, ipa)
    leaf = peek64(entry)
    if leaf & VALID == 0:
        return Pa(0)
    return stage2.output(leaf) + (u64(ipa) & ((u64(1) << shift) - 1))


@inline
def _is_hidden(page: Pa) -> bool:
    return pages.entry(page).STATE == pages.State.PRIVATE


def _wipe(base: Pa, size: u64) -> None:
    """Zeros, also for who looks past the caches."""
    memory.zero(base, size)
    memory.clean(base, size)


def _restore(vm: Held[Vm], base: Pa, size: u64) -> None:
    """Private pages go back to the host; while they do they are nobody else's."""
    _wipe(base, size)
    _hand_over(vm, base, size)


def _hand_over(vm: Held[Vm], base: Pa, size: u64) -> None:
    host_memory.give(base, size)
    _reclaim(vm, base, size)
    vm.private_count -= size >> PAGE_SHIFT


def give_back(vm: Held[Vm], budget: u64) -> u64:
    """The end: about `budget` pages (0: any number) return to the host, slot by slot, as many as take a short time.

    No TLB knows them any more. Gives what is left of that time, in units of about a hundred instructions.
    """
    if vm.lent_count == 0:
        return _EFFORT
    left = budget if budget != 0 else ~u64(0)
    effort: u64 = _EFFORT
    while left != 0 and effort != 0 and vm.lent_count != 0:
        slot = vm.slots[vm.given_slots]
        end = slot.base + (slot.page_count << PAGE_SHIFT)
        if slot.mapped == 0 or vm.given_back >= end:
            vm.given_slots += 1
            vm.given_back = Ipa(0)
            effort -= 1
        else:
            given, effort = _give_back(vm, max(slot.base, vm.given_back), end, left, effort)
            vm.lent_count -= given
            left -= min(given, left)
    return effort if vm.protected == 0 else 0  # blocks of the host's may have been merged on the way


def _give_back(vm: Held[Vm], base: Ipa, end: Ipa, budget: u64, effort: u64) -> tuple[u64, u64]:
    """Pages from `base` on, until budget or effort is spent or the entries of a table end; gives their number, and what
    is left of the effort.

    A leaf's private pages are all wiped, in as many calls as it takes, before the first of them is the host's: only a
    whole block needs no new table there.
    """
    given: u64 = 0
    at = base
    entry, shift = stage2.find(vm.stage2, at)
    more = True
    while more:
        leaf = peek64(entry)
        if leaf != 0:
            first = stage2.output(leaf)
            if shift == PAGE_SHIFT:
                effort -= min(effort, _return_page(vm, first))
            else:
                within = u64(at) & (BLOCK_SIZE - 1)
                wiped = BLOCK_SIZE - within
                if vm.private_count != 0:
                    wiped = _wipe_private(first + within, wiped, effort)
                if within + wiped < BLOCK_SIZE:
                    vm.given_back = at + wiped
                    return given, 0
                _return_block(vm, first)
                effort -= min(effort, _BLOCK_EFFORT)
            poke64(entry, 0)
            given += u64(1) << (shift - PAGE_SHIFT)
        else:
            effort -= 1
        at = stage2.after(at, shift)
        entry = entry + 8
        more = effort != 0 and at < end and given < budget and u64(entry) & (PAGE_SIZE - 1) != 0 and shift == PAGE_SHIFT
    vm.given_back = at
    return given, effort


def _wipe_private(base: Pa, size: u64, effort: u64) -> u64:
    """Those of the rest of a block's pages that are; gives the bytes that are done with.

    The last page is for a call of its own, in which the block returns.
    """
    end = max(size - PAGE_SIZE, PAGE_SIZE)
    done: u64 = 0
    while done < end and effort >= _WIPE_EFFORT:
        first = done
        while done < end and effort >= _WIPE_EFFORT and _is_hidden(base + done):
            done += PAGE_SIZE
            effort -= _WIPE_EFFORT
        if done != first:
            _wipe(base + first, done - first)
        else:
            done += PAGE_SIZE
    return done


def _return_page(vm: Held[Vm], page: Pa) -> u64:
    """Gives its cost."""
    if vm.private_count != 0 and _is_hidden(page):
        _restore(vm, page, PAGE_SIZE)
        return _WIPE_EFFORT
    _take_back(vm, page, PAGE_SIZE)
    return 1


def _return_block(vm: Held[Vm], base: Pa) -> None:
    """Its private pages are wiped; the guest of a protected VM may have shown some."""
    if vm.private_count != 0 and vm.private_count == vm.lent_count:
        _hand_over(vm, base, BLOCK_SIZE)
        return
    at = base
    end = base + BLOCK_SIZE
    while vm.private_count != 0 and at < end:
        hidden = _is_hidden(at)
        first = at
        at = at + PAGE_SIZE
        while at < end and _is_hidden(at) == hidden:
            at = at + PAGE_SIZE
        if hidden:
            _hand_over(vm, first, at - first)
        else:
            _take_back(vm, first, at - first)
    if at < end:
        _take_back(vm, at, end - at)


def _reclaim(vm: Held[Vm], base: Pa, size: u64) -> None:
    reclaimed = pages.reclaim(base, size >> PAGE_SHIFT, vm.vmid)
    assert reclaimed, "a private page was not the guest's"


def _take_back(vm: Held[Vm], base: Pa, size: u64) -> None:
    taken = pages.take_back(base, size >> PAGE_SHIFT, vm.vmid)
    assert taken, "a guest's page was not lent to it"
