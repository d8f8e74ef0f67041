# SPDX-License-Identifier: Apache-2.0
"""A linked image and what was measured of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

#: Functions with their frames in bytes, from the outermost to the innermost.
Chain = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Report:
    """Bytes and seconds. text: all code. image: the flat file. worst_stack: the chain of calls that needs most."""

    text_bytes: int
    image_bytes: int
    worst_stack_bytes: int
    seconds: float
    worst_stack: Chain


@dataclass(frozen=True)
class Image:
    """elf: with symbols and DWARF. flat: the arm64 Image, to be loaded at any 4 KiB boundary."""

    elf: Path
    flat: Path
    report: Report
