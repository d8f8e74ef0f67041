# SPDX-License-Identifier: Apache-2.0
"""Guest memory as the host describes it: slots, purposes, the buffer of SET_MEMREGION, the mailbox of demand paging."""

from __future__ import annotations

from enum import IntEnum

from gz.abi.run import PAGE_SIZE
from gz.bits import Struct, u32, u64

SLOTS_MAX = 10
"""Memory slots per VM, numbered from 0."""
REGION_BUFFER_SIZE = 2 * PAGE_SIZE
"""Bytes of the buffer that x2 and x3 of SET_MEMREGION name."""


class Purpose(IntEnum):
    """x4 of MEMREGION_PURPOSE and flags of the ioctl. 0 is a region added later: always shared, never private."""

    NONE = 0
    GUEST_MEMORY = 1
    PROTECTED_FIRMWARE = 2
    STATIC_SWIOTLB = 4


class Access(IntEnum):
    """What a guest does in a slot without its VMM (x4 of capability MEMORY_ACCESS); all else there is an MMIO exit."""

    READ_WRITE = 0
    READ_ONLY = 1
    """Loads and fetches."""
    NONE = 2


class MemoryRegion(Struct):
    """Head of the SET_MEMREGION buffer; the constituents follow it."""

    slot: u32
    constituent_count: u32
    """Meaningless, like the list, in the call that declares a slot (the first after MEMREGION_PURPOSE)."""
    total_pages: u64
    """4 KiB pages this call describes: the whole slot when it declares, the sum of the runs when it populates."""
    gpa: u64
    """Guest-physical byte address of the first page of this call."""


class Constituent(Struct):
    """A run of physically contiguous host pages."""

    address: u64
    """Host-physical byte address, 4 KiB aligned."""
    page_count: u32
    reserved: u32
    """Not cleared by the driver."""


CONSTITUENTS_MAX = (REGION_BUFFER_SIZE - MemoryRegion.size) // Constituent.size

BLOCK_SIZE = 0x20_0000
"""Granule of block demand paging, x3 of capability BLOCK_DEMAND_PAGING."""
BLOCK_PAGES = BLOCK_SIZE // PAGE_SIZE
MAILBOX_SIZE = BLOCK_PAGES * 8
"""One host page frame number (u64) per page of the block, from index 0."""
