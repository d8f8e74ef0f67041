# SPDX-License-Identifier: Apache-2.0
"""Puts an arm64 Linux Image, an initrd and the tree into guest RAM (Linux, arm64/booting.rst)."""

from __future__ import annotations

import os
import struct
import zlib
from dataclasses import dataclass

from gz.vmm.memory import GuestMemory

BLOCK = 0x20_0000
"""Kernels go to a 2 MiB boundary plus their text_offset."""
HEADER_SIZE = 64
IMAGE_MAGIC = b"ARM\x64"
_HEADER = struct.Struct("<IIQQQQQQ4sI")
"""code0, code1, text_offset, image_size, flags, res2-4, magic, res5 (PE header)."""
BIG_ENDIAN = 1
GZIP_MAGIC = b"\x1f\x8b"
ZBOOT_MAGIC = b"zimg"
CHUNK = 0x10_0000


class LoadError(Exception):
    """A file that cannot be booted; the text says which, why and what to do."""


@dataclass(frozen=True)
class Layout:
    """Where things lie, guest-physical. The tree goes to the start of RAM, where U-Boot looks for one too."""

    entry: int
    tree: int
    kernel_end: int


def load_kernel(memory: GuestMemory, path: str) -> Layout:
    """Loads the Image at `path`, gzip-compressed or not. LoadError if it is none or does not fit."""
    base, size = memory.regions()[0]
    with _open(path, "kernel") as source:
        head = source.read(HEADER_SIZE)
        if head[:2] == GZIP_MAGIC:
            source.seek(0)
            return _load_gzip(memory, path, source)
        entry, image_size = _place(path, head, base, size)
        source.seek(0, os.SEEK_END)
        length = source.tell()
        _check_room(path, "kernel", max(length, image_size), base + size - entry)
        source.seek(0)
        _read_into(source, memory.at(entry, length), path)
    return Layout(entry, base, entry + max(length, image_size))


def load_initrd(memory: GuestMemory, path: str, layout: Layout) -> tuple[int, int]:
    """Loads a file behind the kernel; gives its start and end."""
    base, size = memory.regions()[0]
    start = -(-layout.kernel_end // BLOCK) * BLOCK
    with _open(path, "initrd") as source:
        length = source.seek(0, os.SEEK_END)
        if length == 0:
            raise LoadError(f"initrd {path}: the file is empty")
        _check_room(path, "initrd", length, base + size - start)
        source.seek(0)
        _read_into(source, memory.at(start, length), path)
    return start, start + length


def load_tree(memory: GuestMemory, blob: bytes, layout: Layout) -> None:
    """Stores the finished tree; it ends below the first block a kernel can lie in."""
    if len(blob) > BLOCK:
        raise LoadError(f"the device tree has {len(blob)} bytes, more than 2 MiB")
    memory.at(layout.tree, len(blob))[:] = blob


def _open(path: str, what: str):
    try:
        source = open(path, "rb", buffering=0)
    except OSError as error:
        raise LoadError(f"{what} {path}: {error.strerror}") from None
    if not source.seekable():
        source.close()
        raise LoadError(f"{what} {path}: not a regular file")
    return source


def _place(path: str, head: bytes, base: int, size: int) -> tuple[int, int]:
    """Entry address and image_size by an Image header."""
    if len(head) < HEADER_SIZE:
        raise LoadError(f"kernel {path}: only {len(head)} bytes, too short for an arm64 Image")
    fields = _HEADER.unpack(head)
    text_offset, image_size, flags, magic = fields[2], fields[3], fields[4], fields[8]
    if magic != IMAGE_MAGIC:
        hint = _recognise(head)
        raise LoadError(f"kernel {path}: not an arm64 Linux Image{hint}")
    if flags & BIG_ENDIAN:
        raise LoadError(f"kernel {path}: a big-endian kernel; only little-endian ones run here")
    if image_size == 0:
        raise LoadError(f"kernel {path}: from before Linux 3.17 (it does not say how much memory it needs)")
    if text_offset >= size:
        raise LoadError(f"kernel {path}: its text offset {text_offset:#x} lies outside the guest's memory")
    return base + BLOCK + text_offset, image_size


def _recognise(head: bytes) -> str:
    if head[4:8] == ZBOOT_MAGIC:
        return " but a self-extracting EFI image; give the plain Image"
    if head[:4] == b"\x7fELF":
        return " but an ELF file; give arch/arm64/boot/Image instead of vmlinux"
    if head[:2] == b"MZ":
        return " but an EFI program for another machine"
    return f" (its magic number is {head[56:60].hex()}, expected {IMAGE_MAGIC.hex()})"


def _load_gzip(memory: GuestMemory, path: str, source) -> Layout:
    """Unpacks straight into guest memory, so that what a small file unpacks to is bounded by it."""
    base, size = memory.regions()[0]
    unpack = zlib.decompressobj(wbits=31)
    head = b""
    entry = image_size = length = 0
    pending = b""
    while not unpack.eof:
        if not pending:
            pending = source.read(CHUNK)
            if not pending:
                raise LoadError(f"kernel {path}: the gzip data ends too early")
        try:
            data = unpack.decompress(pending, CHUNK)
        except zlib.error as error:
            raise LoadError(f"kernel {path}: damaged gzip data ({error})") from None
        pending = unpack.unconsumed_tail
        if not entry:
            head += data
            if len(head) < HEADER_SIZE and not unpack.eof:
                continue
            entry, image_size = _place(path, head[:HEADER_SIZE], base, size)
            _check_room(path, "kernel", image_size, base + size - entry)
            data = head
        _check_room(path, "kernel", length + len(data), base + size - entry)
        memory.at(entry + length, len(data))[:] = data
        length += len(data)
    return Layout(entry, base, entry + max(length, image_size))


def _check_room(path: str, what: str, needed: int, room: int) -> None:
    if needed > room:
        missing = -(-(needed - room) // 0x10_0000)
        raise LoadError(
            f"{what} {path} does not fit: it needs {-(-needed // 0x10_0000)} MiB and {max(room, 0) >> 20} MiB"
            f" are left; give the guest at least {missing} MiB more memory"
        )


def _read_into(source, target: memoryview, path: str) -> None:
    while target:
        count = source.readinto(target)
        if not count:
            raise LoadError(f"{path}: the file became shorter while it was read")
        target = target[count:]
