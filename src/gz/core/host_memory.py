# SPDX-License-Identifier: Apache-2.0
"""The host's stage 2: the identity, out of which RAM goes to protected VMs and comes back.

`prepare` makes the tables that a stretch needs, which may fail; `withdraw` and `give` then cannot: a mark on the
stretch's first entry keeps other CPUs from merging the tables meanwhile. A stretch is a page or lies in one block of
2 MiB that it fills. An entry becomes 0 on the level of blocks only when a whole block
goes, and its tables stay otherwise, so what comes back as it went needs no new table.
"""

from __future__ import annotations

import gz.core.lock as lock
import gz.core.stage2 as stage2
import gz.core.work as works
from gz.abi.errors import Error
from gz.arm64.descriptors import BLOCK_SHIFT, PAGE_SHIFT, TABLE_BITS, VALID
from gz.arm64.insn import dsb, isb
from gz.bits import Held, Ipa, Pa, i64, storage, u64
from gz.core.lock import Lock
from gz.core.stage2 import Stage2
from gz.core.work import AGAIN, Work
from gz.metal import held, inline, peek64, poke64, releases

#: Instructions, about, of a table of smaller entries.
_DIVIDE = 5_000

HOST = storage(Stage2)
#: Held while an entry changes: whoever has it sees no half of a break-before-make.
changing = storage(Lock)


@inline
def _acquire() -> Held[Lock]:
    lock.acquire(changing)
    return held(changing)


@inline
@releases
def _release(locked: Held[Lock]) -> None:
    lock.release(locked)


def prepare(work: Work, base: Pa, size: u64) -> i64:
    """Room in the tables for a change of these bytes; nothing changes for the host.

    NO_MEMORY: no frames. AGAIN: larger entries are to be divided, which is for the next piece.
    """
    if u64(base) >= stage2.limit():
        return Error.NO_MEMORY
    locked = _acquire()
    error = _prepare(locked, work, Ipa(u64(base)), BLOCK_SHIFT if size >> BLOCK_SHIFT != 0 else PAGE_SHIFT)
    _release(locked)
    return error


@inline
def _prepare(_: Held[Lock], work: Work, at: Ipa, wanted: u64) -> i64:
    entry, shift = stage2.find(HOST, at)
    if shift > wanted:
        if not works.afford(work, (shift - wanted) // TABLE_BITS * _DIVIDE):
            return AGAIN
        if not stage2.refine(HOST, at, wanted):
            return Error.NO_MEMORY
        entry, shift = stage2.find(HOST, at)
    descriptor = peek64(entry)
    if descriptor & VALID != 0:
        poke64(entry, descriptor | stage2.PREPARED)
    return Error.NO_ERROR


def withdraw(base: Pa, size: u64) -> None:
    """The host finds nothing there any more, once `forget` has been called."""
    locked = _acquire()
    _fill(locked, base, size, False)
    _release(locked)


def forget() -> None:
    """No CPU knows what was withdrawn before."""
    stage2.flush(HOST)


def give(base: Pa, size: u64) -> None:
    """The host finds the memory itself there again, in blocks as large as before."""
    locked = _acquire()
    _fill(locked, base, size, True)
    dsb("ishst")
    isb()
    stage2.merge(HOST, Ipa(u64(base)))
    _release(locked)


def merge(base: Pa) -> None:
    """Undo `prepare`."""
    locked = _acquire()
    entry, _ = stage2.find(HOST, Ipa(u64(base)))
    poke64(entry, peek64(entry) & ~u64(stage2.PREPARED))
    stage2.merge(HOST, Ipa(u64(base)))
    _release(locked)


def has(ipa: Ipa) -> bool:
    """A translation, while none is being changed."""
    locked = _acquire()
    descriptor, _ = stage2.walk(HOST, ipa)
    _release(locked)
    return descriptor & VALID != 0


def _fill(_: Held[Lock], base: Pa, size: u64, mapped: bool) -> None:
    at = Ipa(u64(base))
    end = at + size
    while at < end:
        entry, shift = stage2.find(HOST, at)
        assert u64(1) << shift <= size, "the host's tables have no room for a change"
        assert (peek64(entry) & VALID != 0) != mapped, "the host's memory changes twice"
        poke64(entry, stage2.leaf(Pa(u64(at)), shift, stage2.NORMAL) if mapped else 0)
        at = stage2.after(at, shift)
