# SPDX-License-Identifier: Apache-2.0
"""Memory that the host supplies: MAP_GUEST, MAP_GUEST_BLOCK and the SET_MEMREGION that populates (gzvm ABI 1.6, 2.2).

A call maps all of its pages or none, in pieces (core/work.py). First each page is lent or donated and its leaf
reserved, which nobody below EL2 sees; if one cannot be, all that was reserved is taken back. Then leaf by leaf becomes
valid, which cannot fail. Pages that the guest has just there already, or that another call reserved for the same place,
stay as they are: whoever comes first makes them valid. What the host may change meanwhile is read once in a piece.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.coherency as coherency
import gz.core.firmware as firmware
import gz.core.host_memory as host_memory
import gz.core.memory as memory
import gz.core.pages as pages
import gz.core.reclaim as reclaim
import gz.core.slots as slots
import gz.core.stage2 as stage2
import gz.core.trace as trace
import gz.core.work as works
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
from gz.arm64.insn import dsb, isb
from gz.bits import Array, Held, Ipa, Pa, Va, i64, u64
from gz.core.platform import machine
from gz.core.trace import Event
from gz.core.work import AGAIN, Stage
from gz.metal import inline, peek64, poke64, read_once, unroll, view

if TYPE_CHECKING:
    from gz.core.slots import Slot
    from gz.core.vm import Vm

_PFN_LIMIT = 1 << (48 - PAGE_SHIFT)
_POPULATE_PAGES_MAX = 1 << 18  # in one call
_GROUP = 8  # words of the mailbox that are looked at together

#: Instructions, about, of what is done for one leaf.
_WORD = 5  # of the mailbox
_RUN = 14  # of a list
_RESERVE = 170
_RESERVE_PRIVATE = 300
_RESERVE_BLOCK = 1_500  # its 512 entries in the table of pages; or a table and its first page
_LOOK = 20
_COMMIT = 14
_COMMIT_PRIVATE = 180
_COMMIT_BLOCK = 400
_MERGE = 5_500  # 512 leaves become one
_CLEAN = 190
_CLEAN_MORE = 132  # one of several adjacent pages
_FILL = 1_800
_CANCEL = 180
_CANCEL_PRIVATE = 420
_TRIM = 6_000  # tables that may be empty now


def set_region(vm: Held[Vm], buffer: Pa) -> i64:
    """SET_MEMREGION; `buffer` is two pages shared with the core.

    The call after an announcement declares the slot.
    """
    head = view(MemoryRegion, memory.va(buffer))
    number = read_once(head.slot)
    count = read_once(head.constituent_count)
    total = read_once(head.total_pages)
    base = Ipa(read_once(head.gpa))
    if number >= SLOTS_MAX or total > stage2.limit() >> PAGE_SHIFT or not slots.in_range(base, total << PAGE_SHIFT):
        return Error.INVALID_ARGS
    announced = vm.announced
    if announced.pending != 0 and base == announced.base:
        if total << PAGE_SHIFT != announced.size:
            return Error.INVALID_ARGS
        error = slots.declare(vm, number, base, total, announced.purpose)
        if error == Error.NO_ERROR:
            announced.pending = 0
        return error
    if count == 0 or count > CONSTITUENTS_MAX or total > _POPULATE_PAGES_MAX:
        return Error.INVALID_ARGS
    slot = vm.slots[number]
    if announced.ever == 0:
        if vm.protected != 0:  # nobody said which of it is private
            return Error.INVALID_ARGS
        error = slots.grow(vm, number, base, total)
        if error == Error.NO_ERROR:
            error = _populate(vm, slot, buffer, base, total, count)
            if error != AGAIN:
                slots.end_growth(vm, number, base, error == Error.NO_ERROR)
        return error
    if not slots.contains(slot, base, total):
        return Error.INVALID_ARGS
    return _populate(vm, slot, buffer, base, total, count)


def map_pages(vm: Held[Vm], number: u64, pfn: u64, gfn: u64, count: u64) -> i64:
    """MAP_GUEST: adjacent pages."""
    error = slots.check_window(vm, number, gfn, count)
    if error != Error.NO_ERROR:
        return error
    slot = vm.slots[number]
    base = Ipa(gfn << PAGE_SHIFT)
    work = vm.work
    if work.stage == Stage.RESERVE and work.done < count:
        error = Error.INVALID_ARGS
        if pfn < _PFN_LIMIT:
            at = work.done << PAGE_SHIFT
            error = _reserve(vm, slot, base + at, Pa(pfn << PAGE_SHIFT) + at, count - work.done)
    return _go_on(vm, slot, base, count, error)


def map_block(vm: Held[Vm], number: u64, gfn: u64, count: u64) -> i64:
    """MAP_GUEST_BLOCK: the pages that the mailbox lists; 512 adjacent, aligned ones go as a block."""
    if vm.mailbox == 0:
        return Error.INVALID_ARGS
    error = slots.check_window(vm, number, gfn, count)
    if error != Error.NO_ERROR:
        return error
    slot = vm.slots[number]
    base = Ipa(gfn << PAGE_SHIFT)
    work = vm.work
    mailbox = memory.va(vm.mailbox)
    reserving = work.stage == Stage.RESERVE
    while reserving and error == Error.NO_ERROR and work.done < count and work.effort != 0:
        first = peek64(mailbox + 8 * work.done)
        run: u64 = 1
        if count - work.done >= BLOCK_PAGES and (first | (gfn + work.done)) & (BLOCK_PAGES - 1) == 0:
            run += _adjacent(mailbox + 8 * (work.done + 1), first + 1, BLOCK_PAGES - 1)
            works.charge(work, _WORD * run)
        error = Error.INVALID_ARGS
        if first < _PFN_LIMIT:
            error = _reserve(vm, slot, base + (work.done << PAGE_SHIFT), Pa(first << PAGE_SHIFT), run)
    return _go_on(vm, slot, base, count, error)


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


def _populate(vm: Held[Vm], slot: Slot, buffer: Pa, base: Ipa, total: u64, count: u64) -> i64:
    error: i64 = Error.NO_ERROR
    if vm.work.stage == Stage.RESERVE:
        error = _reserve_listed(vm, slot, buffer, base, total, count)
    return _go_on(vm, slot, base, total, error)


def _reserve_listed(vm: Held[Vm], slot: Slot, buffer: Pa, base: Ipa, total: u64, count: u64) -> i64:
    runs = view(Array[Constituent], memory.va(buffer) + MemoryRegion.size, CONSTITUENTS_MAX)
    work = vm.work
    end: u64 = 0
    for i in range(count):
        run = u64(read_once(runs[i].page_count))
        if run == 0 or run > total - end:
            return Error.INVALID_ARGS
        end += run
        works.charge(work, _RUN)
        if work.done < end:
            left = end - work.done
            at = base + (work.done << PAGE_SHIFT)
            error = _reserve(vm, slot, at, Pa(read_once(runs[i].address)) + ((run - left) << PAGE_SHIFT), left)
            if error != Error.NO_ERROR or work.done < end:
                return error
    return Error.NO_ERROR if end == total else i64(Error.INVALID_ARGS)


def _reserve(vm: Held[Vm], slot: Slot, ipa: Ipa, pa: Pa, page_count: u64) -> i64:
    """Lend or donate adjacent pages and reserve their leaves, as many as this piece can."""
    if u64(pa) & (PAGE_SIZE - 1) != 0:
        return Error.INVALID_ARGS
    if slot.access == Access.NONE:
        return Error.INVALID_ARGS
    work = vm.work
    size = page_count << PAGE_SHIFT
    attributes = stage2.guest_memory()
    if slot.access == Access.READ_ONLY:
        attributes &= ~u64(stage2.WRITABLE)
    private = slots.is_private(vm, slot)
    cost: u64 = _RESERVE_PRIVATE if private else _RESERVE
    done: u64 = 0
    while done < size:
        at = ipa + done
        entry = work.entry
        shift: u64 = PAGE_SHIFT
        span: u64 = PAGE_SIZE
        if entry == 0 or u64(at) & (BLOCK_SIZE - 1) == 0:  # else behind the last one, in the same table
            entry, shift = stage2.find(vm.stage2, at)
        if shift == PAGE_SHIFT:
            if not works.afford(work, cost):
                return Error.NO_ERROR
            wanted = stage2.leaf(pa + done, PAGE_SHIFT, attributes) & ~u64(VALID)
            descriptor = peek64(entry)
            new = descriptor == 0
            if new:
                poke64(entry, wanted)
            elif descriptor & ~u64(VALID) != wanted:
                return Error.INVALID_ARGS
            work.entry = entry + 8
        else:
            if not works.afford(work, _RESERVE_BLOCK):
                return Error.NO_ERROR
            error, span, new = stage2.reserve(vm.stage2, at, pa + done, size - done, attributes)
            if error != Error.NO_ERROR:
                return error
            work.entry = Va(0)
        if new:
            error = _take(vm, private, pa + done, span)
            if error != Error.NO_ERROR:
                stage2.drop(vm.stage2, at)
                return Error.NO_ERROR if error == AGAIN else error
            slot.mapped += span >> PAGE_SHIFT
            vm.lent_count += span >> PAGE_SHIFT
        done += span
        work.done += span >> PAGE_SHIFT
    return Error.NO_ERROR


@inline
def _take(vm: Held[Vm], private: bool, base: Pa, size: u64) -> i64:
    count = size >> PAGE_SHIFT
    if not private:
        return Error.NO_ERROR if pages.lend(base, count, vm.vmid) else i64(Error.INVALID_ARGS)
    if not pages.donate(base, count, vm.vmid):
        return Error.INVALID_ARGS
    error = host_memory.prepare(vm.work, base, size)
    if error != Error.NO_ERROR:
        reclaim.reclaim(vm, base, size)
    return error


def _go_on(vm: Held[Vm], slot: Slot, base: Ipa, count: u64, error: i64) -> i64:
    """After what could be reserved of [base, base + count pages), or an error of that."""
    work = vm.work
    if work.stage == Stage.RESERVE:
        if error != Error.NO_ERROR:
            work.stage = Stage.CANCEL_NO_MEMORY if error == Error.NO_MEMORY else Stage.CANCEL_INVALID
            work.done += 1  # tables that were made for it
        elif work.done < count:
            return AGAIN
        else:
            work.stage = Stage.COMMIT
            work.done = 0
    work.done = min(work.done, count)
    match Stage(work.stage):
        case Stage.COMMIT:
            _commit(vm, slot, base, count)
            if work.done < count:
                return AGAIN
            trace.record_here(Event.MAP, vm.vmid << 16, u64(base), count << PAGE_SHIFT)
            return Error.NO_ERROR
        case Stage.CANCEL_INVALID:
            return _cancel(vm, slot, base, Error.INVALID_ARGS)
        case Stage.CANCEL_NO_MEMORY:
            return _cancel(vm, slot, base, Error.NO_MEMORY)
        case _:
            return Error.INVALID_ARGS


def _cancel(vm: Held[Vm], slot: Slot, base: Ipa, error: i64) -> i64:
    """From the end of what was reserved to its beginning, then `error`."""
    work = vm.work
    private = slots.is_private(vm, slot)
    end = work.done
    more = works.afford(work, _TRIM + _MERGE if private else _TRIM)
    while more and work.done != 0 and works.afford(work, _CANCEL_PRIVATE if private else _CANCEL):
        at = base + ((work.done - 1) << PAGE_SHIFT)
        entry, shift = stage2.find(vm.stage2, at)
        leaf = peek64(entry)
        if stage2.is_reserved(leaf) and stage2.ready(leaf) == 0:
            reclaim.forgo(vm, stage2.output(leaf), u64(1) << shift)
            slot.mapped -= u64(1) << (shift - PAGE_SHIFT)
            vm.lent_count -= u64(1) << (shift - PAGE_SHIFT)
        first = Ipa((u64(at) >> shift) << shift)
        work.done = (first - base) >> PAGE_SHIFT if first > base else 0
    if work.done != end:
        stage2.cancel(vm.stage2, base + (work.done << PAGE_SHIFT), (end - work.done) << PAGE_SHIFT)
    return AGAIN if work.done != 0 else error


def _commit(vm: Held[Vm], slot: Slot, base: Ipa, count: u64) -> None:
    """Make leaves valid, from `work.done` on. One that is gone was cancelled by another call: reserve it again."""
    work = vm.work
    end = base + (count << PAGE_SHIFT)
    at = base + (work.done << PAGE_SHIFT)
    while at < end and work.effort != 0:
        entry, shift = stage2.find(vm.stage2, at)
        leaf = peek64(entry)
        if leaf == 0:
            work.stage = Stage.RESERVE
            work.effort = 0
        elif shift == PAGE_SHIFT:
            at = _commit_pages(vm, slot, entry, at, end)
        elif leaf & VALID != 0:
            works.charge(work, _LOOK)
            at = stage2.after(at, shift)
        elif _commit_block(vm, slot, entry, Ipa(u64(at) & ~u64(BLOCK_SIZE - 1))):
            at = stage2.after(at, shift)
        work.done = min((at - base) >> PAGE_SHIFT, count)


def _commit_pages(vm: Held[Vm], slot: Slot, entry: Va, base: Ipa, end: Ipa) -> Ipa:
    """Leaves of one table, as many as this piece can; gives where they end. The host loses private pages before the
    guest has them.
    """
    work = vm.work
    private = slots.is_private(vm, slot)
    filled = private and _is_firmware(vm, slot)
    cost: u64 = (_COMMIT_PRIVATE if private else _COMMIT) + _readying(filled, _CLEAN)
    border = stage2.after(base, BLOCK_SHIFT)
    merging = end >= border and stage2.joins(entry)
    if merging and not works.afford(work, _MERGE):
        return base
    count = min((min(end, border) - base) >> PAGE_SHIFT, work.effort // cost)
    works.charge(work, count * cost if count != 0 else work.effort)
    if private:
        count = _withdraw(vm, entry, count)
    if filled or machine.forces_write_back == 0:
        _ready_pages(vm, entry, base, count, filled)
    coherency.refetch()
    here = entry
    last = entry + 8 * count
    while here < last and peek64(here) != 0:
        poke64(here, peek64(here) | VALID)
        here = here + 8
    dsb("ishst")
    isb()
    at = base + ((here - entry) >> 3 << PAGE_SHIFT)
    if merging and at == border:
        stage2.merge(vm.stage2, base)
    return at


def _withdraw(vm: Held[Vm], entry: Va, count: u64) -> u64:
    """The reserved leaves' pages go out of the host's stage 2, up to the first that is missing; gives where that is."""
    gone: u64 = 0
    done: u64 = 0
    while done < count and peek64(entry + 8 * done) != 0:
        leaf = peek64(entry + 8 * done)
        if stage2.is_reserved(leaf):
            host_memory.withdraw(stage2.output(leaf), PAGE_SIZE)
            gone += 1
        done += 1
    if gone != 0:
        host_memory.forget()
        vm.private_count += gone
    return done


def _ready_pages(vm: Held[Vm], entry: Va, base: Ipa, count: u64, filled: bool) -> None:
    for i in range(count):
        leaf = peek64(entry + 8 * i)
        if stage2.is_reserved(leaf):
            _ready(vm, base + (i << PAGE_SHIFT), stage2.output(leaf), PAGE_SIZE, filled)


def _commit_block(vm: Held[Vm], slot: Slot, entry: Va, at: Ipa) -> bool:
    """False: its pages are not ready yet. What was withdrawn from the host is nobody's until they are."""
    work = vm.work
    leaf = peek64(entry)
    private = slots.is_private(vm, slot)
    filled = private and _is_firmware(vm, slot)
    each = _readying(filled, _CLEAN_MORE)
    if not works.afford(work, _COMMIT_BLOCK + each):
        return False
    done = stage2.ready(leaf)
    if private and done == 0:
        host_memory.withdraw(stage2.output(leaf), BLOCK_SIZE)
        host_memory.forget()
        vm.private_count += BLOCK_PAGES
    if each != 0:
        count = min(1 + work.effort // each, BLOCK_PAGES - done)
        works.charge(work, (count - 1) * each)
        offset = done << PAGE_SHIFT
        _ready(vm, at + offset, stage2.output(leaf) + offset, count << PAGE_SHIFT, filled)
        done += count
        if done < BLOCK_PAGES:
            stage2.set_ready(entry, done)
            work.effort = 0
            return False
    coherency.refetch()
    stage2.commit(vm.stage2, at, BLOCK_SIZE)
    return True


@inline
def _is_firmware(vm: Vm, slot: Slot) -> bool:
    return vm.firmware_size != 0 and slot.purpose == Purpose.PROTECTED_FIRMWARE


@inline
def _readying(filled: bool, cleaning: u64) -> u64:
    """What it costs to make a page ready for its guest."""
    return (_FILL if filled else 0) + (cleaning if machine.forces_write_back == 0 else 0)


def _ready(vm: Vm, at: Ipa, base: Pa, size: u64, filled: bool) -> None:
    """What the core's firmware has there, in pages that nobody reaches; and what lies in them is all there is: nothing
    older below dirty lines (docs/core.md).
    """
    if filled:
        for offset in range(0, size, PAGE_SIZE):
            firmware.fill(at - vm.firmware + offset, base + offset)
    if machine.forces_write_back == 0:
        memory.clean(base, size)
