# SPDX-License-Identifier: Apache-2.0
"""Firmware of protected VMs for the core to carry: one file with both (gz.abi.firmware)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from gz.abi.firmware import FIRMWARE_MAX, MANIFEST_MAGIC, RANGES_MAX, Manifest
from gz.abi.run import PAGE_SIZE
from gz.arm64.image import ImageHeader
from gz.cli.report import UserError

Contents = bytes | memoryview


@dataclass(frozen=True)
class Verdict:
    """What a protected VM may run: `ranges` are (guest-physical address, contents); `ram` (address, bytes) has to be
    its alone. `uart8250`: the console's address if it is an 8250, else 0."""

    entry: int
    tree: int
    console: int
    ram: tuple[int, int]
    ranges: Sequence[tuple[int, Contents]]
    uart8250: int = 0


def carry(core: bytes, firmware: bytes) -> bytes:
    """The core's Image with firmware behind it, and an image_size for both."""
    whole = bytearray(_whole(core) + _pages(firmware))
    ImageHeader.view(memoryview(whole), 0).image_size = len(whole)
    return bytes(whole)


def verifier(image: bytes, verdict: Verdict) -> bytes:
    """`payloads.firmware` with its manifest."""
    assert len(verdict.ranges) <= RANGES_MAX, "more than the manifest has room for"
    page = bytearray(PAGE_SIZE)
    manifest = Manifest.view(memoryview(page), 0)
    manifest.magic = MANIFEST_MAGIC
    manifest.entry = verdict.entry
    manifest.tree = verdict.tree
    manifest.console = verdict.console
    manifest.ram, manifest.ram_length = verdict.ram
    manifest.uart8250 = verdict.uart8250
    manifest.count = len(verdict.ranges)
    for row, (address, contents) in zip(manifest.ranges, verdict.ranges, strict=False):
        row.address = address
        row.length = len(contents)
        for at, byte in enumerate(hashlib.sha512(contents).digest()):
            row.digest[at] = byte
    return _whole(image) + bytes(page)


def check_size(firmware: bytes, what: str) -> None:
    """UserError for firmware that the core would not offer."""
    if not firmware:
        raise UserError(f"{what}: the file is empty")
    if len(_pages(firmware)) + PAGE_SIZE > FIRMWARE_MAX:
        raise UserError(f"{what}: {len(firmware):#x} bytes, and firmware may have {FIRMWARE_MAX - PAGE_SIZE:#x}")


def _whole(image: bytes) -> bytes:
    """An Image as it lies in memory, with what begins as zeros."""
    header = ImageHeader.view(memoryview(bytearray(image)), 0)
    return image.ljust(header.image_size, b"\0")


def _pages(contents: bytes) -> bytes:
    return contents.ljust(-(-len(contents) // PAGE_SIZE) * PAGE_SIZE, b"\0")
