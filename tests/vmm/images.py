# SPDX-License-Identifier: Apache-2.0
"""Kernels that are none, but look like one."""

from __future__ import annotations

import os
import struct


def make_elf(
    segments: list[tuple[int, bytes]],
    *,
    kind: int = 2,
    machine: int = 183,
    entry: int | None = None,
    memory_size: int = 0x10,
    count: int | None = None,
) -> bytes:
    """A 64-bit ELF file; a segment is (address, bytes). It starts at the first one."""
    start = entry if entry is not None else segments[0][0] if segments else 0
    size, step = 64, 56
    number = len(segments) if count is None else count
    head = struct.pack(
        "<4s12sHHIQQQIHHHHHH",
        b"\x7fELF", b"\x02\x01\x01", kind, machine, 1, start, size, 0, 0, size, step, number, 64, 0, 0,
    )  # fmt: skip
    rows, data, offset = b"", b"", size + step * len(segments)
    for address, content in segments:
        rows += struct.pack("<IIQQQQQQ", 1, 7, offset + len(data), address, address, len(content), memory_size, 0x1000)
        data += content
    return head + rows + data


def make_zboot(compression: bytes, payload: bytes, *, size: int | None = None) -> bytes:
    """An EFI zboot image (zboot-header.S) around compressed data."""
    head = struct.pack(
        "<4s4sII8x32s4sI",
        b"MZ", b"zimg", 256, len(payload) if size is None else size, compression, b"\xcd\x23\x82\x81", 64,
    )  # fmt: skip
    return head.ljust(256, b"\0") + payload + b"\0" * 32


def make_image(
    length: int, image_size: int | None = None, text_offset: int = 0, flags: int = 0xA, magic: bytes = b"ARM\x64"
) -> bytes:
    """An arm64 Image header (booting.rst) in front of random bytes."""
    head = struct.pack(
        "<IIQQQQQQ4sI",
        0x14000000,
        0,
        text_offset,
        length if image_size is None else image_size,
        flags,
        0,
        0,
        0,
        magic,
        0,
    )
    return head + os.urandom(length - len(head))
