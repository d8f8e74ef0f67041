# SPDX-License-Identifier: Apache-2.0
"""Kernels that are none, but look like one."""

from __future__ import annotations

import os
import struct


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
