# SPDX-License-Identifier: Apache-2.0
"""Header of an arm64 kernel Image (Linux, Documentation/arch/arm64/booting.rst, section 4)."""

from __future__ import annotations

from gz.bits import Register, Struct, field, u32, u64

MAGIC = 0x644D_5241
"""\"ARM\\x64\", little-endian."""
LOAD_ALIGNMENT = 0x20_0000
"""text_offset counts from an address aligned like this."""


class ImageHeader(Struct):
    """64 bytes, little-endian."""

    code0: u32
    code1: u32
    text_offset: u64
    image_size: u64
    """Bytes of memory from the load address on, longer than the file; 0 in kernels before 3.17."""
    flags: u64
    """An :class:`ImageFlags`."""
    res2: u64
    res3: u64
    res4: u64
    magic: u32
    res5: u32


class ImageFlags(Register):
    BIG_ENDIAN = field(0)
    PAGE_SIZE = field(2, 1)
    """0 unspecified, 1 4 KiB, 2 16 KiB, 3 64 KiB."""
    ANYWHERE = field(3)
    """The base may be anywhere in physical memory."""
