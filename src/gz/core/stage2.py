# SPDX-License-Identifier: Apache-2.0
"""Stage 2 translation tables of a guest or of the host: 4 KiB granule, at most 40 bits of address, walks from
level 1.

    level 1   1 or 2 adjacent frames, an entry per GiB
    level 2   an entry per 2 MiB: block or table
    level 3   an entry per 4 KiB

An entry is 0, or valid, or *reserved*: a leaf in full but for its valid bit. Mapping reserves first, which
may fail and is undone without a trace (`cancel`), and then turns what it reserved valid (`commit`), which
cannot fail. A live entry changes by break-before-make (DDI 0487 D8.14.1). Whoever calls holds the lock of the
tables' VM.
"""

from __future__ import annotations

import gz.core.coherency as coherency
import gz.core.frames as frames
from gz.abi.errors import Error
from gz.arm64.descriptors import (
    ADDRESS_MASK,
    BLOCK,
    BLOCK_SHIFT,
    GIGABYTE_SHIFT,
    PA_BITS,
    PAGE,
    PAGE_MASK,
    PAGE_SHIFT,
    PAGE_SIZE,
    S2AP,
    SL0_LEVEL1,
    TABLE,
    TABLE_BITS,
    TABLE_ENTRIES,
    TG0_4K,
    TYPE_MASK,
    VALID,
    Cacheability,
    MemAttr,
    MemAttrFwb,
    Shareability,
)
from gz.arm64.descriptors import Stage2 as Leaf
from gz.arm64.features import ID_AA64MMFR0_EL1
from gz.arm64.insn import dmb, dsb, isb, tlbi
from gz.arm64.registers import TCR_EL1, VTCR_EL2, VTCR_EL2_RES1, VTTBR_EL2
from gz.arm64.sysreg import sysreg
from gz.bits import Ipa, Pa, Struct, Va, i64, table, u32, u64
from gz.core.memory import va
from gz.core.platform import machine
from gz.metal import cold, inline, peek64, poke64, unroll

#: Attributes of a leaf.
NORMAL = int(Leaf(AF=1, SH=Shareability.INNER, S2AP=S2AP.READ_WRITE, MemAttr=MemAttr.NORMAL_WRITE_BACK))
#: The same where HCR_EL2.FWB makes every access so, whatever stage 1 says.
FORCED_NORMAL = int(Leaf(AF=1, SH=Shareability.INNER, S2AP=S2AP.READ_WRITE, MemAttr=MemAttrFwb.NORMAL_WRITE_BACK))
#: In both: what the guest may write to.
WRITABLE = int(Leaf(S2AP=S2AP.WRITE))
DEVICE = int(Leaf(AF=1, XN=2, S2AP=S2AP.READ_WRITE, MemAttr=MemAttr.DEVICE_nGnRE))

#: In a valid leaf of the host's, which the CPU ignores: it is about to go, so its table stays.
PREPARED = int(Leaf(SOFTWARE=1))

#: In a reserved leaf, which no CPU looks at: how many of its pages are ready.
_READY_SHIFT = 55
_READY = ((1 << TABLE_BITS) - 1) << _READY_SHIFT

HOST_VMID = 0

_IPA_BITS_MAX = 40  # the public clients' maps end there; level 1 resolves it with two frames
_PA_SIZE_48 = 5  # VTCR_EL2.PS: what the 4 KiB granule addresses without FEAT_LPA2
#: By ID_AA64MMFR0_EL1.PARange; more than the architecture knows is more than enough.
_IPA_BITS = table(u64, [min(bits, _IPA_BITS_MAX) for bits in PA_BITS] + [_IPA_BITS_MAX] * (16 - len(PA_BITS)))
_ROOT_RESOLVES = GIGABYTE_SHIFT + TABLE_BITS
_INDEX = TABLE_ENTRIES - 1
_LAST = 8 * _INDEX  # offset of a table's last entry
_GROUP = 8  # entries that are looked at together
_TLBI_SHIFT = 12  # TLBI IPAS2E1IS takes the address from bit 12 on
_SINGLE_MAX = 32  # leaves that are worth invalidating one by one


class Stage2(Struct):
    root: Pa
    vmid: u32
    frames: u64  # of all its tables
    destroyed: u64  # blocks of guest-physical addresses whose tables are gone


@inline
def ipa_bits() -> u64:
    """Bits of guest-physical address, the same for all guests and the host."""
    return _IPA_BITS[ID_AA64MMFR0_EL1(sysreg.ID_AA64MMFR0_EL1).PARange]


@inline
def limit() -> u64:
    """The first address beyond."""
    return u64(1) << ipa_bits()


def vtcr() -> u64:
    physical = min(ID_AA64MMFR0_EL1(sysreg.ID_AA64MMFR0_EL1).PARange, _PA_SIZE_48)
    return (
        VTCR_EL2(
            T0SZ=64 - ipa_bits(),
            SL0=SL0_LEVEL1,
            IRGN0=Cacheability.WRITE_BACK,
            ORGN0=Cacheability.WRITE_BACK,
            SH0=Shareability.INNER,
            TG0=TG0_4K,
            PS=physical,
        )
        | VTCR_EL2_RES1
    )


@inline
def guest_memory() -> u64:
    """Attributes of a guest's RAM; world.guest_hcr belongs to it."""
    return FORCED_NORMAL if machine.forces_write_back != 0 else NORMAL


def vttbr(s: Stage2) -> u64:
    return u64(s.root) | VTTBR_EL2(VMID=s.vmid)


def create(s: Stage2, vmid: u32) -> bool:
    """Tables that map nothing; False: no frames. `vmid` must not be in any TLB (see `flush`)."""
    count = _root_frames()
    root = frames.allocate_run(count)
    if root == 0:
        return False
    s.root = root
    s.vmid = vmid
    s.frames = count
    s.destroyed = 0
    dsb("ishst")
    return True


def destroy(s: Stage2, steps: u64) -> bool:
    """Give the tables' frames back, in steps of some thirty instructions. True: all are.

    No CPU may run below them; the leaves' pages are the caller's business, and their entries are 0. Once it was called
    nothing else may be.
    """
    if s.destroyed == 0:
        flush(s)
    left = steps
    block = s.destroyed
    end = limit() >> BLOCK_SHIFT
    while block < end and left != 0:
        left -= 1
        above = va(s.root) + 8 * (block >> TABLE_BITS)
        if block & (_GROUP << TABLE_BITS) - 1 == 0 and _are_empty(above):
            block += _GROUP << TABLE_BITS
        elif peek64(above) & TYPE_MASK != TABLE:
            block += TABLE_ENTRIES
        else:
            upper = output(peek64(above))
            entry = va(upper) + 8 * (block & _INDEX)
            if block & (_GROUP - 1) == 0 and _are_empty(entry):
                block += _GROUP
            else:
                lower = peek64(entry)
                if lower & TYPE_MASK == TABLE:
                    poke64(entry, 0)
                    _free_table(s, output(lower))
                    left -= min(left, 1)
                block += 1
            if block & _INDEX == 0:
                poke64(above, 0)
                _free_table(s, upper)
    s.destroyed = block
    if block < end:
        return False
    count = _root_frames()
    frames.free_run(s.root, count)
    s.frames -= count
    s.root = Pa(0)
    return True


@inline
def _are_empty(entries: Va) -> bool:
    """A group of them."""
    found: u64 = 0
    for i in unroll(range(_GROUP)):
        found |= peek64(entries + 8 * i)
    return found == 0


@inline
def output(descriptor: u64) -> Pa:
    """The address in a table's or a leaf's entry."""
    return Pa(descriptor & ADDRESS_MASK)


@inline
def is_reserved(descriptor: u64) -> bool:
    return descriptor != 0 and descriptor & VALID == 0


@inline
def ready(reserved: u64) -> u64:
    """Pages of a reserved leaf that `set_ready` told of; from the first on it is nobody's to cancel."""
    return reserved >> _READY_SHIFT


@inline
def set_ready(entry: Va, count: u64) -> None:
    """Fewer than all."""
    poke64(entry, (peek64(entry) & ~u64(_READY)) | count << _READY_SHIFT)


def find(s: Stage2, ipa: Ipa) -> tuple[Va, u64]:
    """The last entry on the walk for `ipa` (below `limit()`): its place, and log2 of the bytes it covers."""
    entry = va(s.root) + 8 * (u64(ipa) >> GIGABYTE_SHIFT)
    shift: u64 = GIGABYTE_SHIFT
    while shift > PAGE_SHIFT:
        descriptor = peek64(entry)
        if descriptor & TYPE_MASK != TABLE:
            break
        shift -= TABLE_BITS
        entry = va(output(descriptor)) + 8 * ((u64(ipa) >> shift) & _INDEX)
    return entry, shift


def walk(s: Stage2, ipa: Ipa) -> tuple[u64, u64]:
    """The last descriptor on the walk for `ipa` and its level; 0 beyond the end."""
    if u64(ipa) >= limit():
        return 0, 1
    entry, shift = find(s, ipa)
    return peek64(entry), (GIGABYTE_SHIFT + TABLE_BITS - shift) // TABLE_BITS


def map(s: Stage2, ipa: Ipa, pa: Pa, size: u64, attributes: u64) -> i64:
    """Map a stretch with the largest blocks that fit.

    What is mapped just so already stays; an error has no effect.
    """
    if not in_range(ipa, size) or u64(pa) & PAGE_MASK != 0:
        return Error.INVALID_ARGS
    done: u64 = 0
    while done < size:
        error, span, _ = reserve(s, ipa + done, pa + done, size - done, attributes)
        if error != Error.NO_ERROR:
            cancel(s, ipa, done + PAGE_SIZE)
            return error
        done += span
    commit(s, ipa, size)
    return Error.NO_ERROR


@inline
def in_range(ipa: Ipa, size: u64) -> bool:
    """Whole pages below `limit()`, at least one."""
    end = limit()
    return (u64(ipa) | size) & PAGE_MASK == 0 and size != 0 and u64(ipa) < end and size <= end - u64(ipa)


def reserve(s: Stage2, ipa: Ipa, pa: Pa, size: u64, attributes: u64) -> tuple[i64, u64, bool]:
    """One leaf for the beginning of a stretch: error, bytes dealt with, and whether that is a new, reserved
    leaf.

    INVALID_ARGS: something else lies there or is reserved. Tables made on the way stay until `cancel`.
    """
    entry, shift = find(s, ipa)
    descriptor = peek64(entry)
    if descriptor == 0:
        largest: u64 = GIGABYTE_SHIFT if s.vmid == HOST_VMID else BLOCK_SHIFT
        while shift > PAGE_SHIFT and (
            shift > largest or size >> shift == 0 or (u64(ipa) | u64(pa)) & ((u64(1) << shift) - 1) != 0
        ):
            frame = _allocate_table(s)
            if frame == 0:
                return Error.NO_MEMORY, 0, False
            dmb("ishst")  # a walker that finds the table finds zeros in it
            poke64(entry, u64(frame) | TABLE)
            shift -= TABLE_BITS
            entry = va(frame) + 8 * ((u64(ipa) >> shift) & _INDEX)
        poke64(entry, leaf(pa, shift, attributes) & ~u64(VALID))
        return Error.NO_ERROR, u64(1) << shift, True
    span = u64(1) << shift
    offset = u64(ipa) & (span - 1)
    mapped = descriptor if descriptor & VALID != 0 else (descriptor & ~u64(_READY)) | VALID
    if mapped != leaf(Pa(u64(pa) - offset), shift, attributes):
        return Error.INVALID_ARGS, 0, False
    return Error.NO_ERROR, min(span - offset, size), False


@inline
def leaf(pa: Pa, shift: u64, attributes: u64) -> u64:
    return u64(pa) | attributes | (PAGE if shift == PAGE_SHIFT else BLOCK)


def drop(s: Stage2, ipa: Ipa) -> None:
    """Take one reserved leaf away."""
    entry, _ = find(s, ipa)
    assert is_reserved(peek64(entry)), "not a reserved leaf"
    poke64(entry, 0)


def cancel(s: Stage2, ipa: Ipa, size: u64) -> None:
    """Take away what `reserve` put into [ipa, ipa + size): reserved leaves and tables that are empty then."""
    at = ipa
    end = ipa + size
    while at < end:
        entry, shift = find(s, at)
        if is_reserved(peek64(entry)) and ready(peek64(entry)) == 0:
            poke64(entry, 0)
        at = after(at, shift)
    dead = _unlink_empty(s, ipa, end)
    if dead != 0:
        flush(s)
        _free_chain(s, dead)


def commit(s: Stage2, ipa: Ipa, size: u64) -> u64:
    """Turn the reserved leaves in [ipa, ipa + size) valid; gives their bytes."""
    made: u64 = 0
    at = ipa
    end = ipa + size
    while at < end:
        entry, shift = find(s, at)
        last = False
        while not last:  # the entries of one table of level 3 in a row
            descriptor = peek64(entry)
            here = at
            at = after(at, shift)
            last = shift != PAGE_SHIFT or u64(at) & ((1 << BLOCK_SHIFT) - 1) == 0 or at >= end
            if is_reserved(descriptor):
                poke64(entry, (descriptor & ~u64(_READY)) | VALID)
                made += u64(1) << shift
                if shift == PAGE_SHIFT and last and peek64(Va(u64(entry) | _LAST)) & VALID != 0:
                    merge(s, here)
            entry = entry + 8
    dsb("ishst")
    isb()
    return made


def revoke(s: Stage2, ipa: Ipa, size: u64) -> tuple[i64, u64]:
    """The opposite of `commit`: the valid leaves in [ipa, ipa + size) are reserved ones afterwards, and in no TLB.

    Gives their bytes. NO_MEMORY: a block had to be split; no effect.
    """
    end = ipa + size
    if not _split(s, ipa) or not _split(s, end):
        return Error.NO_MEMORY, 0
    gone: u64 = 0
    at = ipa
    while at < end:
        entry, shift = find(s, at)
        descriptor = peek64(entry)
        if descriptor & VALID != 0:
            poke64(entry, descriptor & ~u64(VALID))
            gone += u64(1) << shift
        at = after(at, shift)
    if gone != 0:
        flush(s)
    return Error.NO_ERROR, gone


@inline
def joins(entry: Va) -> bool:
    """Whether the leaves of the table with this entry may be one block, once all of them are valid."""
    first = peek64(Va(u64(entry) & ~u64(_LAST))) | VALID
    last = peek64(Va(u64(entry) | _LAST)) | VALID
    return u64(output(first)) & ((1 << BLOCK_SHIFT) - 1) == 0 and last == first + (u64(_INDEX) << PAGE_SHIFT)


def unmap(s: Stage2, ipa: Ipa, size: u64) -> i64:
    """Nothing is mapped in the stretch afterwards, in no TLB either.

    NO_MEMORY: a block had to be split; no effect.
    """
    if not in_range(ipa, size):
        return Error.INVALID_ARGS
    end = ipa + size
    if not _split(s, ipa) or not _split(s, end):
        return Error.NO_MEMORY
    cleared: u64 = 0
    previous, control = _below(s)
    at = ipa
    while at < end:
        entry, shift = find(s, at)
        if peek64(entry) & VALID != 0:
            poke64(entry, 0)
            cleared += 1
            if cleared <= _SINGLE_MAX:
                dsb("ishst")
                tlbi("ipas2e1is", u64(at) >> _TLBI_SHIFT)
        at = after(at, shift)
    dead = _unlink_empty(s, ipa, end)
    if cleared > _SINGLE_MAX or dead != 0:
        dsb("ishst")
        tlbi("vmalls12e1is")
    else:
        dsb("ish")
        tlbi("vmalle1is")  # entries that combine both stages (DDI 0487 D8.14.5)
    dsb("ish")
    coherency.settle()
    _back(previous, control)
    _free_chain(s, dead)
    return Error.NO_ERROR


@inline
def after(at: Ipa, shift: u64) -> Ipa:
    """The address behind what the entry covers."""
    return Ipa(((u64(at) >> shift) + 1) << shift)


def flush(s: Stage2) -> None:
    """All CPUs forget every translation of this VMID."""
    previous, control = _below(s)
    dsb("ishst")
    tlbi("vmalls12e1is")
    dsb("ish")
    coherency.settle()
    _back(previous, control)


def flush_here(s: Stage2) -> None:
    """This CPU forgets what it knows of stage 1 below this VMID."""
    previous, control = _below(s)
    tlbi("vmalle1")
    dsb("nsh")
    _back(previous, control)


@inline
def _below(s: Stage2) -> tuple[u64, u64]:
    """TLB maintenance takes the VMID from VTTBR_EL2: put it there, with no walk of EL1 under way meanwhile.

    Gives what `_back` needs. Errata 1165522 and 1319367: EL1's walks are off while the two don't belong
    together.
    """
    previous = u64(sysreg.VTTBR_EL2)
    control = u64(sysreg.TCR_EL1)
    if previous != vttbr(s):
        sysreg.TCR_EL1 = control | TCR_EL1(EPD0=1, EPD1=1)
        isb()
        sysreg.VTTBR_EL2 = vttbr(s)
        isb()
    return previous, control


@inline
def _back(previous: u64, control: u64) -> None:
    if previous != sysreg.VTTBR_EL2:
        sysreg.VTTBR_EL2 = previous
        isb()
        sysreg.TCR_EL1 = control
    isb()


@cold
def _split(s: Stage2, at: Ipa) -> bool:
    """Make `at` a border between leaves. What is mapped does not change, for a moment it faults."""
    while u64(at) < limit():
        entry, shift = find(s, at)
        descriptor = peek64(entry)
        if descriptor & VALID == 0 or u64(at) & ((u64(1) << shift) - 1) == 0:
            return True
        if not _divide(s, entry, shift):
            return False
    return True


def refine(s: Stage2, at: Ipa, shift: u64) -> bool:
    """Let the walk for `at` end at an entry of at most 1 << `shift` bytes, by dividing larger ones, empty ones too.

    What is mapped does not change, for a moment it faults. False: no frames.
    """
    entry, found = find(s, at)
    while found > shift:
        if not _divide(s, entry, found):
            return False
        entry, found = find(s, at)
    return True


@cold
def _divide(s: Stage2, entry: Va, shift: u64) -> bool:
    """A table of smaller leaves, or of nothing, instead of a leaf or nothing."""
    frame = _allocate_table(s)
    if frame == 0:
        return False
    descriptor = peek64(entry)
    if descriptor == 0:
        dmb("ishst")
        poke64(entry, u64(frame) | TABLE)
        return True
    attributes = descriptor & ~u64(ADDRESS_MASK | TYPE_MASK)
    smaller = shift - TABLE_BITS
    for i in range(TABLE_ENTRIES):
        poke64(va(frame) + 8 * i, leaf(output(descriptor) + (i << smaller), smaller, attributes))
    _replace(s, entry, u64(frame) | TABLE)
    return True


@cold
def merge(s: Stage2, at: Ipa) -> None:
    """512 adjacent leaves in order under one table become one block; the host's once more, to one of 1 GiB."""
    upper = va(s.root) + 8 * (u64(at) >> GIGABYTE_SHIFT)
    if peek64(upper) & TYPE_MASK != TABLE:
        return
    lower = va(output(peek64(upper))) + 8 * ((u64(at) >> BLOCK_SHIFT) & _INDEX)
    if peek64(lower) & TYPE_MASK == TABLE and not _fold(s, lower, at, PAGE_SHIFT):
        return
    if s.vmid == HOST_VMID:
        _fold(s, upper, at, BLOCK_SHIFT)


def _fold(s: Stage2, entry: Va, at: Ipa, shift: u64) -> bool:
    """The leaves of 1 << `shift` bytes in this table instead of the table, if they are one block.

    A gap that keeps them from being one is mostly near `at`, which changed last: they are looked at from there on.
    """
    leaves = output(peek64(entry))
    first = peek64(va(leaves))
    last = peek64(va(leaves) + 8 * _INDEX)
    kind: u64 = PAGE if shift == PAGE_SHIFT else BLOCK
    if last != first + (u64(_INDEX) << shift) or first & (TYPE_MASK | PREPARED) != kind:
        return False
    if u64(output(first)) & ((u64(1) << (shift + TABLE_BITS)) - 1) != 0:
        return False
    centre = (u64(at) >> shift) & _INDEX
    for distance in range(1, TABLE_ENTRIES // 2 + 1):
        above = (centre + distance) & _INDEX
        below = (centre - distance) & _INDEX
        if peek64(va(leaves) + 8 * above) != first + (above << shift):
            return False
        if peek64(va(leaves) + 8 * below) != first + (below << shift):
            return False
    if peek64(va(leaves) + 8 * centre) != first + (centre << shift):
        return False
    _replace(s, entry, (first & ~u64(TYPE_MASK)) | BLOCK)
    _free_table(s, leaves)
    return True


@cold
def _replace(s: Stage2, entry: Va, descriptor: u64) -> None:
    """Break before make."""
    poke64(entry, 0)
    flush(s)
    poke64(entry, descriptor)
    dsb("ishst")
    isb()


@cold
def _unlink_empty(s: Stage2, ipa: Ipa, end: Ipa) -> Pa:
    """Cut off the tables in [ipa, end) that hold nothing; gives their chain, to be freed after TLB
    maintenance.

    A frame's first word leads to the next frame: to a walker that still comes by it is an invalid entry.
    """
    dead = Pa(0)
    at = ipa
    while at < end:
        upper = va(s.root) + 8 * (u64(at) >> GIGABYTE_SHIFT)
        following = after(at, GIGABYTE_SHIFT)
        if peek64(upper) & TYPE_MASK == TABLE:
            while at < following and at < end:
                lower = va(output(peek64(upper))) + 8 * ((u64(at) >> BLOCK_SHIFT) & _INDEX)
                if peek64(lower) & TYPE_MASK == TABLE:
                    dead = _unlink(lower, dead)
                at = after(at, BLOCK_SHIFT)
            dead = _unlink(upper, dead)
        at = following
    return dead


def _unlink(entry: Va, dead: Pa) -> Pa:
    """The chain, with the table below `entry` on it if that was empty."""
    frame = output(peek64(entry))
    for i in range(TABLE_ENTRIES):
        if peek64(va(frame) + 8 * i) != 0:
            return dead
    poke64(entry, 0)
    poke64(va(frame), u64(dead))
    return frame


def _free_chain(s: Stage2, dead: Pa) -> None:
    frame = dead
    while frame != 0:
        rest = Pa(peek64(va(frame)))
        _free_table(s, frame)
        frame = rest


def _allocate_table(s: Stage2) -> Pa:
    """Pa(0): none is left, or a guest has its share, which leaves other guests as much."""
    if s.vmid != HOST_VMID and s.frames >= frames.pool.count // 2:
        return Pa(0)
    frame = frames.allocate()
    if frame != 0:
        s.frames += 1
    return frame


@inline
def _free_table(s: Stage2, frame: Pa) -> None:
    frames.free(frame)
    s.frames -= 1


@inline
def _root_frames() -> u64:
    bits = ipa_bits()
    return u64(1) << (bits - _ROOT_RESOLVES) if bits > _ROOT_RESOLVES else 1
