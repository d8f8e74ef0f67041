# SPDX-License-Identifier: Apache-2.0
"""Flattened device tree blob (Devicetree Specification 0.4, chapter 5). Every number in it is big-endian."""

from __future__ import annotations

from enum import IntEnum

from gz.bits import Struct, enumeration, u32, u64

MAGIC = 0xD00D_FEED
VERSION = 17
LAST_COMPATIBLE_VERSION = 16
SIZE_MAX = 0x20_0000
"""What the arm64 boot protocol allows."""


class FdtHeader(Struct):
    """40 bytes; 8-byte aligned in memory. Offsets and sizes in bytes, big-endian."""

    magic: u32
    totalsize: u32
    off_dt_struct: u32
    off_dt_strings: u32
    off_mem_rsvmap: u32
    version: u32
    last_comp_version: u32
    boot_cpuid_phys: u32
    size_dt_strings: u32
    size_dt_struct: u32


class FdtReservation(Struct):
    """An entry of the memory reservation block; two zeros end it."""

    address: u64
    length: u64


@enumeration(u32)
class FdtToken(IntEnum):
    BEGIN_NODE = 1
    """Followed by the name, zero-terminated and padded to 4 bytes."""
    END_NODE = 2
    PROP = 3
    """Followed by length, offset of the name in the strings block, value padded to 4 bytes."""
    NOP = 4
    END = 9
