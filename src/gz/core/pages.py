# SPDX-License-Identifier: Apache-2.0
"""Who owns a page of RAM: one 16-bit entry per page, changed only along the rows of one table.

An entry of 0 means that the page is the host's alone, so the table begins as zeros and ends so. What has no
entry (devices, holes in RAM) and what is not a row is refused without effect.
"""

from __future__ import annotations

from enum import IntEnum

import gz.core.lock as lock
from gz.bits import Array, Held, Pa, Register, Struct, Va, array, enumeration, field, storage, table, u8, u16, u32, u64
from gz.core.lock import Lock
from gz.metal import held, inline, peek16, peek64, poke16, poke64, releases, unroll

PAGE_SHIFT = 12
BANK_COUNT_MAX = 16


@enumeration(u32)
class State(IntEnum):
    HOST = 0  # the host's alone
    LENT = 1  # the host's or shown to it, and mapped by one guest at one address: both have access
    SHARED = 2  # the host's, and `COUNT` parties in the core read or write it: run pages, mailboxes, call buffers
    CORE = 3  # the core's alone
    PRIVATE = 4  # one protected guest's alone: missing in the host's stage 2


@enumeration(u32)
class Transition(IntEnum):
    LEND = 0
    TAKE_BACK = 1
    SHARE = 2
    UNSHARE = 3
    KEEP = 4
    DONATE = 5
    RECLAIM = 6
    SHOW = 7
    HIDE = 8


class PageEntry(Register, width=16):
    STATE = field(3, 0)
    COUNT = field(7, 4)
    GUEST = field(15, 8)  # its VM's number, 0: none


class Row(Struct):
    legal: u8
    after: u8
    guest: u8  # which entry carries the VM's number: after (NAMES), before (NAMED), both (STAYS)
    add: u8  # to COUNT, modulo 16


_NOBODY, _NAMES, _NAMED, _STAYS = 0, 1, 2, 3  # bit 0: the entry after, bit 1: the entry before

#: (transition, state before) → state after, whose number the entry carries, change of COUNT.
#: A page SHARED by nobody any more is HOST; a sixteenth sharer is refused.
TRANSITIONS = {
    (Transition.LEND, State.HOST): (State.LENT, _NAMES, 0),
    (Transition.TAKE_BACK, State.LENT): (State.HOST, _NAMED, 0),
    (Transition.SHARE, State.HOST): (State.SHARED, _NOBODY, +1),
    (Transition.SHARE, State.SHARED): (State.SHARED, _NOBODY, +1),
    (Transition.UNSHARE, State.SHARED): (State.SHARED, _NOBODY, -1),
    (Transition.KEEP, State.HOST): (State.CORE, _NOBODY, 0),
    (Transition.DONATE, State.HOST): (State.PRIVATE, _NAMES, 0),
    (Transition.RECLAIM, State.PRIVATE): (State.HOST, _NAMED, 0),
    (Transition.SHOW, State.PRIVATE): (State.LENT, _STAYS, 0),
    (Transition.HIDE, State.LENT): (State.PRIVATE, _STAYS, 0),
}


def _row(transition: Transition, state: State) -> dict[str, int]:
    if (transition, state) not in TRANSITIONS:
        return {"legal": 0, "after": 0, "guest": 0, "add": 0}
    after, guest, add = TRANSITIONS[transition, state]
    return {"legal": 1, "after": after, "guest": guest, "add": add % 16}


ROWS = table(Row, [_row(transition, state) for transition in Transition for state in State])

_ILLEGAL = 0x1_0000  # no 16-bit entry
_GROUP_WORDS = 16  # of 64 bits, that are looked at together
_REPEAT = 0x0001_0001_0001_0001


class RamBank(Struct):
    """A stretch of RAM and the place of its entries."""

    base: Pa
    page_count: u64
    entries: Va  # aligned to 8 bytes


class Ownership(Struct):
    lock: Lock
    bank_count: u64
    banks: Array[RamBank] = array(BANK_COUNT_MAX)


ownership = storage(Ownership)


def table_size(page_count: u64) -> u64:
    """Bytes of entries for so many pages, whole frames."""
    return (page_count * 2 + 0xFFF) & ~u64(0xFFF)


def add(base: Pa, page_count: u64, entries: Va) -> None:
    """At boot: a bank of RAM, all of it the host's; `entries` is zeroed memory of `table_size(page_count)`
    bytes.

    Adjacent banks are one bank, for a range never crosses two.
    """
    assert ownership.bank_count < BANK_COUNT_MAX, "too many banks of RAM"
    bank = ownership.banks[ownership.bank_count]
    bank.base = base
    bank.page_count = page_count
    bank.entries = entries
    ownership.bank_count += 1


def keep(base: Pa, count: u64) -> bool:
    """At boot: pages of the core's own. False without effect: not all of them were the host's alone."""
    return _change(Transition.KEEP, base, count, 0)


def lend(base: Pa, count: u64, guest: u32) -> bool:
    """The host's pages become memory of VM `guest` as well."""
    return _change(Transition.LEND, base, count, guest)


def take_back(base: Pa, count: u64, guest: u32) -> bool:
    """They are the host's alone again; no translation of the guest may lead to them any more."""
    return _change(Transition.TAKE_BACK, base, count, guest)


def share(base: Pa, count: u64) -> bool:
    """The core is going to read or write the host's pages: until `unshare` nobody else gets them."""
    return _change(Transition.SHARE, base, count, 0)


def unshare(base: Pa, count: u64) -> bool:
    return _change(Transition.UNSHARE, base, count, 0)


def donate(base: Pa, count: u64, guest: u32) -> bool:
    """The host's pages become memory of the protected VM `guest`; the host's stage 2 has to lose them."""
    return _change(Transition.DONATE, base, count, guest)


def reclaim(base: Pa, count: u64, guest: u32) -> bool:
    """Private pages are the host's again, wiped, or were never taken out of its stage 2."""
    return _change(Transition.RECLAIM, base, count, guest)


def show(base: Pa, count: u64, guest: u32) -> bool:
    """The guest lets the host see pages of its own."""
    return _change(Transition.SHOW, base, count, guest)


def hide(base: Pa, count: u64, guest: u32) -> bool:
    """What the host could see is the guest's alone."""
    return _change(Transition.HIDE, base, count, guest)


def entry(page: Pa) -> PageEntry:
    """A page's entry for whoever looks; CORE for what is not RAM."""
    at = _locate(page, 1)
    if at == 0:
        return PageEntry(State.CORE)
    return PageEntry(peek16(at))


def _locate(base: Pa, count: u64) -> Va:
    """The first of `count` adjacent entries; Va(0): not all of these pages have one."""
    if u64(base) & ((1 << PAGE_SHIFT) - 1) != 0 or count == 0:
        return Va(0)
    for i in range(ownership.bank_count):
        bank = ownership.banks[i]
        if base >= bank.base:
            index = (base - bank.base) >> PAGE_SHIFT
            if index < bank.page_count:
                return bank.entries + 2 * index if count <= bank.page_count - index else Va(0)
    return Va(0)


@inline
def _step(transition: Transition, before: u16, guest: u32) -> u32:
    """The entry after the transition, or _ILLEGAL."""
    page = PageEntry(before)
    state = u32(page.STATE)
    row = ROWS[u32(transition) * len(State) + state]
    if row.legal == 0:
        return _ILLEGAL
    if row.guest & _NAMED != 0 and guest != page.GUEST:
        return _ILLEGAL
    count = (u32(page.COUNT) + u32(row.add)) & 15
    if count == 0 and row.add != 0:
        return 0 if page.COUNT == 1 else _ILLEGAL
    named = guest if row.guest & _NAMES != 0 else 0
    return u32(row.after) | count << 4 | named << 8


@inline
def _acquire() -> Held[Ownership]:
    lock.acquire(ownership.lock)
    return held(ownership)


@inline
@releases
def _release(owned: Held[Ownership]) -> None:
    lock.release(owned.lock)


def _change(transition: Transition, base: Pa, count: u64, guest: u32) -> bool:
    """All of the pages or none. Equal entries, the usual case, go many at a time."""
    first = _locate(base, count)
    if first == 0:
        return False
    end = first + 2 * count
    owned = _acquire()
    before = peek16(first)
    after = _step(transition, before, guest)
    legal = after != _ILLEGAL
    if legal and count == 1:
        poke16(first, u16(after))
    elif legal and _are(first, end, u64(before) * _REPEAT):
        _fill(first, end, u64(after) * _REPEAT)
    elif legal:  # of the others, all rows of one transition and guest have equal entries before it
        counts = transition == Transition.SHARE or transition == Transition.UNSHARE
        legal = counts and _change_each(owned, transition, first, end, guest)
    _release(owned)
    return legal


@inline
def _is_group(at: Va, end: Va) -> bool:
    return u64(at) & 7 == 0 and end - at >= 8 * _GROUP_WORDS


def _are(first: Va, end: Va, same: u64) -> bool:
    """All entries are this one, repeated in a word."""
    at = first
    while at < end:
        if _is_group(at, end):
            different: u64 = 0
            for i in unroll(range(_GROUP_WORDS)):
                different |= peek64(at + 8 * i) ^ same
            if different != 0:
                return False
            at = at + 8 * _GROUP_WORDS
        else:
            if peek16(at) != same & 0xFFFF:
                return False
            at = at + 2
    return True


def _fill(first: Va, end: Va, entries: u64) -> None:
    at = first
    while at < end:
        if _is_group(at, end):
            for i in unroll(range(_GROUP_WORDS)):
                poke64(at + 8 * i, entries)
            at = at + 8 * _GROUP_WORDS
        else:
            poke16(at, u16(entries & 0xFFFF))
            at = at + 2


def _change_each(_: Held[Ownership], transition: Transition, first: Va, end: Va, guest: u32) -> bool:
    at = first
    while at < end:
        if _step(transition, peek16(at), guest) == _ILLEGAL:
            return False
        at = at + 2
    at = first
    while at < end:
        poke16(at, u16(_step(transition, peek16(at), guest)))
        at = at + 2
    return True
