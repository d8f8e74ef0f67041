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
from gz.arm64.descriptors import BLOCK_SHIFT, PAGE_SHIFT, VALID
from gz.arm64.insn import dsb, isb
from gz.bits import Held, Ipa, Pa, storage, u64
from gz.core.lock import Lock
from gz.core.stage2 import Stage2
from gz.metal import held, inline, peek64, poke64, releases

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


def prepare(base: Pa, size: u64) -> bool:
    """Room in the tables for a change of these bytes; nothing changes for the host. False: no frames."""
    if u64(base) >= stage2.limit():
        return False
    locked = _acquire()
    done = stage2.refine(HOST, Ipa(u64(base)), BLOCK_SHIFT if size >> BLOCK_SHIFT != 0 else PAGE_SHIFT)
    if done:
        entry, _ = stage2.find(HOST, Ipa(u64(base)))
        descriptor = peek64(entry)
        if descriptor & VALID != 0:
            poke64(entry, descriptor | stage2.PREPARED)
    _release(locked)
    return done


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
