# SPDX-License-Identifier: Apache-2.0
"""What the VMM and its compiled part (`ring`) share: guest memory, a queue's state, and what was found in it."""

from __future__ import annotations

from enum import IntEnum

from gz.abi.memory import SLOTS_MAX
from gz.bits import Array, Ptr, Struct, Va, array, u16, u32, u64

INDIRECT_MAX = 1024
"""Entries of an indirect table we accept, as QEMU does; also the buffers of one request."""


INTERRUPT, MORE = 1, 2
"""Bits that `ring_settle` gives: the driver wants an interrupt; there are requests to pop."""


class Region(Struct):
    """`size` bytes of guest RAM from guest-physical `base` on, which this process has at `memory`."""

    base: u64
    size: u64
    memory: Va


class Regions(Struct):
    count: u64
    rows: Array[Region] = array(SLOTS_MAX)


class Buffer(Struct):
    """A piece of a request: `length` bytes at `offset` of a region of guest RAM."""

    offset: u64
    region: u32
    length: u32


class Found(IntEnum):
    """What `ring_pop` gives."""

    NOTHING = 0
    REQUEST = 1
    FAULT = 2


class Fault(IntEnum):
    """How a driver broke the rules of the ring, and what the `details` are."""

    AHEAD = 0
    """Distance of the available index, size of the queue."""
    OUTSIDE = 1
    """Descriptor, entries of its table."""
    ENDLESS = 2
    """First descriptor."""
    INDIRECT = 3
    """Descriptor."""
    TABLE = 4
    """Bytes of the indirect table."""
    ORDER = 5
    """Descriptor."""
    ADDRESS = 6
    """Descriptor, its length, its address."""


class Ring(Struct):
    """A queue that is in use. The addresses are this process's, the sizes of what lies there were checked."""

    regions: Ptr[Regions]
    descriptors: Va
    available: Va
    used: Va
    size: u16
    """A power of two, or 0: not in use, nothing is there."""
    indirect: u16
    """Not 0: the driver accepted VIRTIO_F_INDIRECT_DESC."""
    event_index: u16
    """Not 0: the driver accepted VIRTIO_F_EVENT_IDX."""
    next: u16
    """Of the available ring: what is popped next."""
    filled: u16
    """Of the used ring: where the next entry goes."""
    published: u16
    """Of the used ring: the index that the driver knows."""

    room: u64
    """Of the request popped last: bytes of the buffers to be filled."""
    head: u16
    """Its name."""
    readable: u16
    writable: u16
    """How many of `buffers` the driver filled, and how many behind them are to be filled."""
    fault: u64
    details: Array[u64] = array(3)
    buffers: Array[Buffer] = array(INDIRECT_MAX)
