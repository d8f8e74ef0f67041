# SPDX-License-Identifier: Apache-2.0
"""ENABLE_CAP: x1 = vmid (0 for the two queries), x2 = capability, x3-x7 = its arguments; the answer is in x1."""

from __future__ import annotations

from enum import IntEnum


class Capability(IntEnum):
    GPA_SIZE = 0xA5
    """Answered by the driver alone (CHECK_EXTENSION)."""
    BLOCK_DEMAND_PAGING = 0x9201
    """x3 = granule in bytes, x4 = physical address of the mailbox page."""
    DEMAND_PAGING = 0x9202
    IDLE = 0x9203
    """Exit reasons IDLE and IPI may be used."""
    QUERY_BLOCK_BATCH = 0x9204
    """Answer: pages per MAP_GUEST_BLOCK call; divides 512."""
    QUERY_DESTROY_BATCH = 0x9205
    """Answer: pages per DESTROY_VM call; a power of two."""
    WATCH_EXCEPTIONS = 0x9280
    """x3 = a set of :class:`gz.abi.exits.Watch`, 0 for none. Ours: the kernel's driver does not pass it on."""
    MEMORY_ACCESS = 0x9281
    """x3 = slot, x4 = :class:`gz.abi.memory.Access`, x5 = a page of the slot to begin at. Answer: the page to go on at
    with the next call, the slot's number of pages once all are done. Ours: the kernel's driver does not pass it on."""
    PROTECTED_VM = 0xFFBA_DAB1
    """x3 = :class:`ProtectedVm`."""


class ProtectedVm(IntEnum):
    SET_FIRMWARE = 0
    """x4 = guest-physical address the firmware is loaded at."""
    GET_FIRMWARE_SIZE = 1
    """Answer: bytes, 0 for none."""
    PROTECT = 2
    """Protected without firmware."""
