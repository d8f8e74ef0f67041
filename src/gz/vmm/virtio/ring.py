# SPDX-License-Identifier: Apache-2.0
"""The split virtqueue (VIRTIO 1.3, 2.7), device side, in metal: beside this module as `_ring.so`.

Every index, address and length is the guest's, which may change it at any time: each is read once. `queue`
loads the library; nothing in the host imports this module."""

from __future__ import annotations

from gz.arm64.insn import dmb
from gz.bits import Struct, u16, u32, u64
from gz.metal import cold, export, inline, noinline, peek16, poke16, poke32, read_once, view
from gz.vmm.virtio.shared import INDIRECT_MAX, INTERRUPT, MORE, Fault, Found, Regions, Ring

NEXT, WRITE, INDIRECT = 1, 2, 4
"""Descriptor flags (2.7.5)."""
NO_NOTIFY = 1
"""used.flags: the driver need not notify (2.7.10)."""
NO_INTERRUPT = 1
"""available.flags: the device need not interrupt (2.7.7)."""
INDEX, ENTRIES = 2, 4
"""Offsets in both rings, behind the flags; the other side's event index is behind the entries."""
USED_ENTRY = 8


class Descriptor(Struct):
    address: u64
    length: u32
    flags: u16
    next: u16


@export
def ring_pop(ring: Ring) -> u64:
    """The next request, described in `ring`: a Found."""
    ahead = requests(ring)
    if ahead == 0:
        return Found.NOTHING
    if ahead > ring.size:
        return broken(ring, Fault.AHEAD, ahead, ring.size, 0)
    dmb("ish")  # the index before the entry it covers (2.7.13.3.1)
    slot = u64(ring.next & (ring.size - 1))
    ring.head = peek16(ring.available + ENTRIES + 2 * slot)
    found = walk(ring)
    if found == Found.REQUEST:
        ring.next += 1
    return found


@export
def ring_pending(ring: Ring) -> u64:
    """1 if there are requests to pop."""
    return 1 if requests(ring) != 0 else 0


@export
def ring_push(ring: Ring, head: u32, written: u32) -> None:
    """Hands a request back with the number of bytes written to it; `ring_publish` makes it visible."""
    if ring.size == 0:
        return
    entry = ring.used + ENTRIES + USED_ENTRY * u64(ring.filled & (ring.size - 1))
    poke32(entry, head)
    poke32(entry + 4, written)
    ring.filled += 1


@export
def ring_publish(ring: Ring) -> u64:
    """Shows the driver what was pushed. 1 if it wants an interrupt for it."""
    old, new = ring.published, ring.filled
    if old == new:
        return 0
    dmb("ish")  # entries before the index (2.7.8.2)
    poke16(ring.used + INDEX, new)
    ring.published = new
    dmb("ish")  # the index before looking whether the driver sleeps (2.7.7.2, 2.7.10)
    if ring.event_index != 0:
        wanted = peek16(ring.available + ENTRIES + 2 * u64(ring.size))
        return 1 if new - wanted - 1 < new - old else 0
    return 0 if peek16(ring.available) & NO_INTERRUPT != 0 else 1


@export
def ring_quiet(ring: Ring) -> None:
    """Asks the driver not to notify. Of no use if there is an event index."""
    if ring.size != 0:
        poke16(ring.used, NO_NOTIFY)


@export
def ring_settle(ring: Ring) -> u64:
    """Publishes, then listens: INTERRUPT and MORE."""
    interrupt = ring_publish(ring)
    return interrupt * INTERRUPT | listen(ring) * MORE


@export
def ring_fence() -> None:
    """What this thread did before is seen before what it does after."""
    dmb("ish")


@inline
def listen(ring: Ring) -> u64:
    """Asks the driver for notifications. 1 if requests came in meanwhile: look once more."""
    if ring.size == 0:
        return 0
    if ring.event_index != 0:
        poke16(ring.used + ENTRIES + USED_ENTRY * u64(ring.size), ring.next)
    else:
        poke16(ring.used, 0)
    dmb("ish")  # the wish before the last look at the index (2.7.10)
    return ring_pending(ring)


@inline
def requests(ring: Ring) -> u16:
    """How many the driver made available and nobody popped."""
    return peek16(ring.available + INDEX) - ring.next if ring.size != 0 else 0


def walk(ring: Ring) -> u64:
    """Collects the buffers of the chain at `ring.head`, with those of an indirect table at its end."""
    table, count = ring.descriptors, u64(ring.size)
    index, seen, nested = u64(ring.head), u64(0), False
    ring.readable = 0
    ring.writable = 0
    ring.room = 0
    while True:
        if index >= count:
            return broken(ring, Fault.OUTSIDE, index, count, 0)
        if seen == count:
            return broken(ring, Fault.ENDLESS, ring.head, 0, 0)
        seen += 1
        row = view(Descriptor, table + Descriptor.size * index)
        at = read_once(row.address)
        length = read_once(row.length)
        flags = read_once(row.flags)
        following = read_once(row.next)
        if flags & INDIRECT != 0:
            if nested or ring.indirect == 0 or flags & NEXT != 0:
                return broken(ring, Fault.INDIRECT, index, 0, 0)
            if length == 0 or length % Descriptor.size != 0 or length > Descriptor.size * INDIRECT_MAX:
                return broken(ring, Fault.TABLE, length, 0, 0)
        region, offset = locate(ring.regions, at, length)
        if region == ring.regions.count and length != 0:
            return broken(ring, Fault.ADDRESS, index, length, at)
        if flags & INDIRECT != 0:
            table = ring.regions.rows[region].memory + offset
            count, index, seen, nested = u64(length // Descriptor.size), u64(0), u64(0), True
            continue
        if length != 0 and flags & WRITE == 0 and ring.writable != 0:
            return broken(ring, Fault.ORDER, index, 0, 0)
        if length != 0 and not add(ring, region, offset, length, flags & WRITE != 0):
            return broken(ring, Fault.ENDLESS, ring.head, 0, 0)
        if flags & NEXT == 0:
            return Found.REQUEST
        index = u64(following)


@inline
def locate(regions: Regions, at: u64, length: u32) -> tuple[u64, u64]:
    """The region that has all `length` bytes at guest-physical `at`, and where in it; if none has, their count."""
    for number in range(regions.count):
        region = regions.rows[number]
        if at >= region.base and at - region.base <= region.size and length <= region.size - (at - region.base):
            return number, at - region.base
    return regions.count, 0


@inline
def add(ring: Ring, region: u64, offset: u64, length: u32, write: bool) -> bool:
    """Appends a buffer to the request; False if it has INDIRECT_MAX already."""
    total = u64(ring.readable) + ring.writable
    if total == INDIRECT_MAX:
        return False
    buffer = ring.buffers[total]
    buffer.offset = offset
    buffer.region = u32(region)
    buffer.length = length
    if write:
        ring.writable += 1
        ring.room += length
    else:
        ring.readable += 1
    return True


@noinline
@cold
def broken(ring: Ring, fault: Fault, a: u64, b: u64, c: u64) -> u64:
    ring.fault = fault
    ring.details[0] = a
    ring.details[1] = b
    ring.details[2] = c
    return Found.FAULT
