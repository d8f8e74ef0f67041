# SPDX-License-Identifier: Apache-2.0
"""Puts a kernel into guest RAM: an arm64 Linux Image (arm64/booting.rst), an ELF file or a raw binary.

Compressed ones, by gzip or as EFI zboot images, are unpacked straight into guest memory, so that what a small
file unpacks to is bounded by it."""

from __future__ import annotations

import gzip
import importlib
import io
import os
import struct
import zlib
from collections.abc import Callable
from contextlib import ExitStack

from gz.vmm.loader import BLOCK, Layout, LoadError, check_room, open_file, read_into
from gz.vmm.memory import GuestMemory

HEADER_SIZE = 64
IMAGE_MAGIC = b"ARM\x64"
_IMAGE = struct.Struct("<IIQQQQQQ4sI")
"""code0, code1, text_offset, image_size, flags, res2-4, magic, res5 (PE header)."""
BIG_ENDIAN = 1
GZIP_MAGIC = b"\x1f\x8b"
ZBOOT_MAGIC = b"zimg"
_ZBOOT = struct.Struct("<4s4sII8x32s")
"""MZ, magic, offset and size of the payload, its compression (drivers/firmware/efi/libstub/zboot-header.S)."""
ELF_MAGIC = b"\x7fELF"
_ELF = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
ELF64_LITTLE = b"\x02\x01"
EXECUTABLE, SHARED = 2, 3
MACHINE_AARCH64 = 183
PT_LOAD = 1
SEGMENTS_MAX = 64
RAW_OFFSET = 0x8_0000
"""Of a raw binary in RAM, on all machines: QEMU, kvmtool and crosvm agree."""
CHUNK = 0x10_0000
UNPACKED_MAX = 0x1000_0000

Source = io.FileIO | io.BufferedIOBase

OTHERS = {
    b"#!": "a script",
    b"\x27\x05\x19\x56": "a U-Boot image; give what is inside",
    b"QFI\xfb": "a qcow2 disk",
    b"070701": "a cpio archive; that is an --initrd",
    b"BZh": "compressed by bzip2; unpack it",
    b"\xfd7zXZ": "compressed by xz; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; unpack it",
    b"\x02!L\x18": "compressed by lz4; unpack it",
    b"\xd0\x0d\xfe\xed": "a device tree",
    ELF_MAGIC: "an ELF file inside of another; unpack it",
    GZIP_MAGIC: "compressed twice; unpack it",
}
"""Beginnings of files that are no code."""


def load_kernel(memory: GuestMemory, path: str) -> Layout:
    """Loads the file at `path`. LoadError if it is no kernel or does not fit."""
    with ExitStack() as stack:
        source = stack.enter_context(open_file(path, "kernel"))
        head = _head(path, source)
        if head.startswith(ELF_MAGIC):
            return _load_elf(memory, path, source)
        unpacked = _unpacked(path, head, source)
        if unpacked is not source:
            return _load_stream(memory, path, stack.enter_context(unpacked))
        return _load_plain(memory, path, head, source)


def is_image(path: str, ram: tuple[int, int]) -> bool:
    """True for a Linux Image, perhaps packed, False for other code. LoadError for what cannot be loaded into `ram`
    (guest-physical base, size); but only its beginning is looked at."""
    with ExitStack() as stack:
        source: Source = stack.enter_context(open_file(path, "kernel"))
        head = _head(path, source)
        if head.startswith(ELF_MAGIC):
            _segments(path, source, source.seek(0, os.SEEK_END))
            return False
        unpacked = _unpacked(path, head, source)
        if unpacked is not source:
            head = _reader(path, stack.enter_context(unpacked))(HEADER_SIZE)
        _place(ram, path, head)
        return head[56:60] == IMAGE_MAGIC


def unpack(path: str) -> bytes:
    """The arm64 Image in the file at `path`, which may be packed. LoadError if there is none."""
    with ExitStack() as stack:
        source: Source = stack.enter_context(open_file(path, "kernel"))
        unpacked = _unpacked(path, _head(path, source), source)
        if unpacked is not source:
            stack.enter_context(unpacked)
        image = _reader(path, unpacked)(UNPACKED_MAX + 1)
    if image[56:60] != IMAGE_MAGIC:
        raise LoadError(f"kernel {path}: not an arm64 Image, packed or not")
    if len(image) > UNPACKED_MAX:
        raise LoadError(f"kernel {path}: larger than {UNPACKED_MAX} bytes")
    return image


def _head(path: str, source: Source) -> bytes:
    try:
        head = source.read(HEADER_SIZE)
    except OSError as error:
        raise LoadError(f"kernel {path}: {error.strerror}") from None
    if not head:
        raise LoadError(f"kernel {path}: the file is empty")
    source.seek(0)
    return head


def _unpacked(path: str, head: bytes, source: Source) -> Source:
    """What is inside, or the file itself if it is not packed."""
    if head[4:8] == ZBOOT_MAGIC:
        return _zboot(path, head, source)
    if head.startswith(GZIP_MAGIC):
        return gzip.GzipFile(fileobj=source)
    return source


def _load_plain(memory: GuestMemory, path: str, head: bytes, source: io.FileIO) -> Layout:
    length = source.seek(0, os.SEEK_END)
    layout, room = _place(memory.regions()[0], path, head)
    check_room(path, "kernel", length, room)
    source.seek(0)
    read_into(source, memory.at(layout.entry, length), path)
    return Layout(layout.entry, layout.tree, max(layout.kernel_end, layout.entry + length))


def _load_stream(memory: GuestMemory, path: str, source: Source) -> Layout:
    read = _reader(path, source)
    data = head = read(CHUNK)
    while data and len(head) < HEADER_SIZE:
        data = read(CHUNK)
        head += data
    layout, room = _place(memory.regions()[0], path, head[:HEADER_SIZE])
    length = 0
    data = head
    while data:
        check_room(path, "kernel", length + len(data), room)
        memory.at(layout.entry + length, len(data))[:] = data
        length += len(data)
        data = read(CHUNK)
    return Layout(layout.entry, layout.tree, max(layout.kernel_end, layout.entry + length))


def _reader(path: str, source: Source) -> Callable[[int], bytes]:
    """`source.read` of a decompressor, which may find anything in a file."""

    def read(count: int) -> bytes:
        try:
            return source.read(count)
        except EOFError:
            raise LoadError(f"kernel {path}: the compressed data ends too early") from None
        except (OSError, zlib.error, _zstd_error()) as error:
            raise LoadError(f"kernel {path}: damaged compressed data ({error})") from None

    return read


def _zboot(path: str, head: bytes, source: Source) -> Source:
    """The Image inside of a self-extracting EFI program."""
    if len(head) < _ZBOOT.size:
        raise LoadError(f"kernel {path}: only {len(head)} bytes, too short for an EFI zboot image")
    _, _, offset, size, name = _ZBOOT.unpack_from(head)
    if offset + size > source.seek(0, os.SEEK_END):
        raise LoadError(f"kernel {path}: the compressed data of this EFI zboot image lies outside of the file")
    source.seek(offset)
    packed = io.BytesIO(source.read(size))
    compression = name.split(b"\0")[0].decode("ascii", "replace")
    if compression == "gzip":
        return gzip.GzipFile(fileobj=packed)
    if compression.startswith("zstd"):
        try:
            return importlib.import_module("zstandard").ZstdDecompressor().stream_reader(packed)
        except ImportError:
            raise LoadError(
                f"kernel {path}: an EFI zboot image compressed by zstd, which needs Python's zstandard module"
            ) from None
    raise LoadError(f"kernel {path}: an EFI zboot image compressed by {compression!r}; gzip and zstd are known")


def _zstd_error() -> type[Exception]:
    try:
        return importlib.import_module("zstandard").ZstdError
    except ImportError:
        return zlib.error


def _place(ram: tuple[int, int], path: str, head: bytes) -> tuple[Layout, int]:
    """Where the file goes that begins with `head`, ending as its header says, and the room there."""
    base, size = ram
    if head[56:60] != IMAGE_MAGIC:
        refuse_others(path, "kernel", head)
        entry, tree = base + RAW_OFFSET, base + size - BLOCK
        return Layout(entry, tree, entry), tree - entry
    if len(head) < HEADER_SIZE:
        raise LoadError(f"kernel {path}: only {len(head)} bytes, too short for an arm64 Image")
    _, _, text_offset, image_size, flags, *_ = _IMAGE.unpack(head)
    if flags & BIG_ENDIAN:
        raise LoadError(f"kernel {path}: a big-endian kernel; only little-endian ones run here")
    if image_size == 0:
        raise LoadError(f"kernel {path}: from before Linux 3.17 (it does not say how much memory it needs)")
    if text_offset >= size:
        raise LoadError(f"kernel {path}: its text offset {text_offset:#x} lies outside the guest's memory")
    entry = base + BLOCK + text_offset
    room = base + size - entry
    check_room(path, "kernel", image_size, room)
    return Layout(entry, base, entry + image_size), room


def refuse_others(path: str, name: str, head: bytes) -> None:
    """Anything can be a raw binary, but not what is known to be something else or does not begin with code."""
    for magic, what in OTHERS.items():
        if head.startswith(magic):
            raise LoadError(f"{name} {path}: {what}")
    if head.startswith(b"MZ"):
        raise LoadError(f"{name} {path}: an EFI program that is no arm64 Linux Image")
    if len(head) < 4 or not any(head[:4]):
        raise LoadError(f"{name} {path}: neither an arm64 Linux Image nor an ELF file nor code (it begins with 0)")
    if all(byte in b"\t\n\r" or 0x20 <= byte < 0x7F for byte in head):
        raise LoadError(f"{name} {path}: a text file")


def _load_elf(memory: GuestMemory, path: str, source: io.FileIO) -> Layout:
    """Segments go to their physical addresses; those of a position-independent file, behind the first 2 MiB."""
    base, size = memory.regions()[0]
    length = source.seek(0, os.SEEK_END)
    kind, entry, segments = _segments(path, source, length)
    tree = base + size - BLOCK
    lowest = min(row[3] for row in segments)
    slide = base + BLOCK - lowest // BLOCK * BLOCK if kind == SHARED and not base <= lowest < tree else 0
    end = start = 0
    for _, offset, virtual, physical, file_size, memory_size in segments:
        at = physical + slide
        if not (base <= at and at + memory_size <= tree) or file_size > memory_size or offset + file_size > length:
            raise LoadError(
                f"kernel {path}: the segment of {memory_size:#x} bytes at {at:#x} is not inside the guest's memory"
                f" from {base:#x} to {tree:#x}; of Linux give arch/arm64/boot/Image instead of vmlinux"
            )
        target = memory.at(at, memory_size)
        source.seek(offset)
        read_into(source, target[:file_size], path)
        target[file_size:] = bytes(memory_size - file_size)
        if virtual <= entry < virtual + memory_size:
            start = entry - virtual + at
        end = max(end, at + memory_size)
    if not start:
        raise LoadError(f"kernel {path}: the entry {entry:#x} of this ELF file is in no segment")
    return Layout(start, tree, end)


def _segments(path: str, source: Source, length: int) -> tuple[int, int, list[tuple[int, int, int, int, int, int]]]:
    """Type, entry and loaded segments: (flags, offset, virtual, physical, size in file and in memory)."""
    source.seek(0)
    head = source.read(_ELF.size)
    if len(head) < _ELF.size or head[4:6] != ELF64_LITTLE:
        raise LoadError(f"kernel {path}: not a 64-bit little-endian ELF file")
    _, kind, machine, _, entry, table, _, _, _, step, count, *_ = _ELF.unpack(head)
    if machine != MACHINE_AARCH64:
        raise LoadError(f"kernel {path}: an ELF file for another machine (number {machine})")
    if kind not in (EXECUTABLE, SHARED):
        raise LoadError(f"kernel {path}: an ELF file that is not a program; link it")
    if step != _SEGMENT.size or count > SEGMENTS_MAX or table + count * step > length:
        raise LoadError(f"kernel {path}: the program headers of this ELF file are damaged")
    source.seek(table)
    rows = [_SEGMENT.unpack(source.read(_SEGMENT.size)) for _ in range(count)]
    loaded = [row[1:7] for row in rows if row[0] == PT_LOAD and row[6]]
    if not loaded:
        raise LoadError(f"kernel {path}: an ELF file with nothing to load")
    return kind, entry, loaded
