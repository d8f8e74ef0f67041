# SPDX-License-Identifier: Apache-2.0
"""Pages that go back to the host: one by one as a guest gives them (MEM_RELINQUISH), all of them when a VM ends.

What was private is wiped first, past the caches. Called with the VM's lock held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.host_memory as host_memory
import gz.core.memory as memory
import gz.core.pages as pages
import gz.core.slots as slots
import gz.core.stage2 as stage2
import gz.core.trace as trace
import gz.core.work as works
from gz.abi.errors import Error
from gz.abi.memory import BLOCK_SIZE, SLOTS_MAX, Access
from gz.abi.run import PAGE_SIZE
from gz.arm64.descriptors import BLOCK_SHIFT, PAGE_SHIFT, VALID
from gz.bits import Held, Ipa, Pa, i64, u32, u64
from gz.core.trace import Event
from gz.metal import inline, peek64, poke64, write_once

if TYPE_CHECKING:
    from gz.core.slots import Slot
    from gz.core.vcpu import Vcpu
    from gz.core.vm import Vm

#: What one step of a VM's end costs, in units of the end of a page: some 125 instructions. Where a private page ends
#: the tables of the host may merge, and that twice; a block's pages are wiped first and return later.
_EFFORT = 132
_BLOCK_EFFORT = 32
_RESTORE_EFFORT = 8
_WIPE_EFFORT = 3

#: Instructions, about, of looking for what a slot has; and pages that go back at once as its access changes.
_LOOK = 60
_WITHHELD_MAX = 48


def relinquish(vcpu: Vcpu, ipa: Ipa) -> i64:
    """A guest that runs here gives a page back (MEM_RELINQUISH): unmapped, wiped, the host's alone."""
    if u64(ipa) & (PAGE_SIZE - 1) != 0:
        return Error.INVALID_ARGS
    vm = slots.acquire(vcpu)
    works.begin(vm.work, 0)
    error = _relinquish(vm, ipa)
    slots.release(vm)
    return error


def _relinquish(vm: Held[Vm], ipa: Ipa) -> i64:
    slot = slots.find(vm, ipa)
    if slot is None:
        return Error.INVALID_ARGS
    page = slots.output(vm, ipa)
    if page == 0:
        return Error.INVALID_ARGS
    error: i64 = Error.NO_ERROR
    if _is_hidden(page):
        error = host_memory.prepare(vm.work, page, PAGE_SIZE)
        if error != Error.NO_ERROR:
            return error
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


def set_access(vm: Held[Vm], number: u64, access: u64, first: u64) -> tuple[i64, u64]:
    """From its page `first` on the slot becomes `access`: what is mapped there goes back to the host, as much as a turn
    allows, and comes again when the guest asks for it. Gives the page to go on at.
    """
    if number >= SLOTS_MAX or access > Access.NONE or vm.growth.number != 0:
        return Error.INVALID_ARGS, 0
    slot = vm.slots[number]
    if first >= slot.page_count or slots.is_private(vm, slot):
        return Error.INVALID_ARGS, 0
    previous = slot.access
    write_once(slot.access, u32(access))
    end = slot.base + (slot.page_count << PAGE_SHIFT)
    at = slot.base + (first << PAGE_SHIFT)
    while at < end and works.afford(vm.work, _LOOK):
        entry, shift = stage2.find(vm.stage2, at)
        following = min(stage2.after(at, max(shift, BLOCK_SHIFT)), end)
        if shift == PAGE_SHIFT:
            following = min(following, at + _WITHHELD_MAX * PAGE_SIZE)
        if peek64(entry) != 0 or shift == PAGE_SHIFT:
            error = _withhold(vm, slot, at, following - at)
            if error != Error.NO_ERROR:
                write_once(slot.access, previous)
            return error, (following - slot.base) >> PAGE_SHIFT
        at = following
    return Error.NO_ERROR, (at - slot.base) >> PAGE_SHIFT


def _withhold(vm: Held[Vm], slot: Slot, base: Ipa, size: u64) -> i64:
    """What a call has reserved there as well: it finds that and reserves it anew."""
    error, _ = stage2.revoke(vm.stage2, base, size)
    if error != Error.NO_ERROR:
        return error
    at = base
    end = base + size
    while at < end:
        entry, shift = stage2.find(vm.stage2, at)
        leaf = peek64(entry)
        if leaf != 0:
            forgo(vm, stage2.output(leaf), u64(1) << shift)
            poke64(entry, 0)
            slot.mapped -= u64(1) << (shift - PAGE_SHIFT)
            vm.lent_count -= u64(1) << (shift - PAGE_SHIFT)
        at = stage2.after(at, shift)
    stage2.cancel(vm.stage2, base, size)
    trace.record_here(Event.UNMAP, vm.vmid << 16, u64(base), size)
    return Error.NO_ERROR


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
    reclaim(vm, base, size)
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
        end = slot.base + (slots.extent(vm, vm.given_slots) << PAGE_SHIFT)
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
            if leaf & VALID == 0 and stage2.ready(leaf) == 0:
                forgo(vm, first, u64(1) << shift)
                effort -= min(effort, _BLOCK_EFFORT)
            elif shift == PAGE_SHIFT:
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
        return _RESTORE_EFFORT
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


def forgo(vm: Held[Vm], base: Pa, size: u64) -> None:
    """The pages of a reserved leaf of which nothing is ready."""
    if _is_hidden(base):
        host_memory.merge(base)
        reclaim(vm, base, size)
    else:
        _take_back(vm, base, size)


def reclaim(vm: Held[Vm], base: Pa, size: u64) -> None:
    """Private pages that were never withdrawn from the host, or have been given back."""
    reclaimed = pages.reclaim(base, size >> PAGE_SHIFT, vm.vmid)
    assert reclaimed, "a private page was not the guest's"


def _take_back(vm: Held[Vm], base: Pa, size: u64) -> None:
    taken = pages.take_back(base, size >> PAGE_SHIFT, vm.vmid)
    assert taken, "a guest's page was not lent to it"
