# SPDX-License-Identifier: Apache-2.0
"""QEMU's firmware configuration device at its MMIO registers (QEMU, docs/specs/fw_cfg): read-only items by number, some
of them files with names, through a data register or by DMA."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Mapping
from enum import IntEnum, IntFlag
from typing import Protocol

from gz.vmm.memory import BadAddress, GuestMemory

SIZE = 0x18
SIGNATURE = b"QEMU"
DMA_SIGNATURE = b"QEMU CFG"
CHUNK = 0x10_0000
_WRITE = 0x4000
"""Of a selector: nothing that can be written is here."""
_ACCESS = struct.Struct(">IIQ")
"""FWCfgDmaAccess: control, length, address."""
_FILE = struct.Struct(">IHxx56s")


class Reg(IntEnum):
    """Offsets. Selector and DMA address are big-endian."""

    DATA = 0x00
    SELECTOR = 0x08
    DMA = 0x10
    DMA_LOW = 0x14


class Key(IntEnum):
    SIGNATURE = 0x00
    ID = 0x01
    NB_CPUS = 0x05
    KERNEL_SIZE = 0x08
    INITRD_SIZE = 0x0B
    BOOT_MENU = 0x0E
    MAX_CPUS = 0x0F
    KERNEL_DATA = 0x11
    INITRD_DATA = 0x12
    CMDLINE_SIZE = 0x14
    CMDLINE_DATA = 0x15
    FILE_DIR = 0x19
    FILE_FIRST = 0x20


class Feature(IntFlag):
    """Of Key.ID."""

    REGISTERS = 1
    DMA = 2


class Control(IntFlag):
    ERROR = 1
    READ = 2
    SKIP = 4
    SELECT = 8
    WRITE = 16


class Item(Protocol):
    size: int

    def read_into(self, target: memoryview, offset: int) -> None:
        """Fills `target` from bytes that the item has. OSError."""
        ...


class Bytes:
    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self._data = data

    def read_into(self, target: memoryview, offset: int) -> None:
        target[:] = self._data[offset : offset + len(target)]


class File:
    """A file that is read when the guest asks for it; `fd` is the caller's to close."""

    def __init__(self, fd: int) -> None:
        self.size = os.lseek(fd, 0, os.SEEK_END)
        self._fd = fd

    def read_into(self, target: memoryview, offset: int) -> None:
        while target:
            count = os.preadv(self._fd, [target], offset)
            if count == 0:
                raise OSError("the file became shorter")
            target, offset = target[count:], offset + count


def number(value: int, size: int = 4) -> Bytes:
    return Bytes(value.to_bytes(size, "little"))


def directory(files: Mapping[str, Item]) -> Bytes:
    """Of the items that have names, with the keys from FILE_FIRST on, in order."""
    rows = [
        _FILE.pack(item.size, Key.FILE_FIRST + index, name.encode()) for index, (name, item) in enumerate(files.items())
    ]
    return Bytes(struct.pack(">I", len(rows)) + b"".join(rows))


class FwCfg:
    def __init__(self, memory: GuestMemory, items: Mapping[int, Item], files: Mapping[str, Item]) -> None:
        self._memory = memory
        self._items: dict[int, Item] = {
            Key.SIGNATURE: Bytes(SIGNATURE),
            Key.ID: number(Feature.REGISTERS | Feature.DMA),
            Key.FILE_DIR: directory(files),
            **items,
            **{Key.FILE_FIRST + index: item for index, item in enumerate(files.values())},
        }
        self._nothing = Bytes(b"")
        self._item: Item = self._nothing
        self._offset = 0
        self._dma_high = 0
        self._lock = threading.Lock()
        self._select(Key.SIGNATURE)

    def read(self, offset: int, size: int) -> int:
        if offset == Reg.DATA:
            with self._lock:
                data = bytearray(size)
                try:
                    self._copy(memoryview(data))
                except OSError:
                    data = bytearray(size)  # this register has no way to say so
            return int.from_bytes(data, "little")
        if Reg.DMA <= offset < SIZE:
            return int.from_bytes(DMA_SIGNATURE[offset - Reg.DMA :][:size], "little")
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        swapped = int.from_bytes(value.to_bytes(size, "little"), "big")
        with self._lock:
            match offset, size:
                case Reg.SELECTOR, 2:
                    self._select(swapped)
                case Reg.DMA, 8:
                    self._transfer(swapped)
                case Reg.DMA, 4:
                    self._dma_high = swapped
                case Reg.DMA_LOW, 4:
                    self._transfer(self._dma_high << 32 | swapped)
                case _:
                    pass  # the data register, which takes nothing, or no register

    def _select(self, key: int) -> None:
        self._item = self._items.get(key & ~_WRITE, self._nothing)
        self._offset = 0

    def _copy(self, target: memoryview) -> None:
        """The item's next bytes, and zeros behind its end."""
        while target:
            piece = target[:CHUNK]
            there = min(len(piece), max(self._item.size - self._offset, 0))
            if there:
                self._item.read_into(piece[:there], self._offset)
            piece[there:] = bytes(len(piece) - there)
            self._offset += len(piece)
            target = target[CHUNK:]

    def _transfer(self, at: int) -> None:
        """What a FWCfgDmaAccess at `at` asks for. A guest that gives no memory for it hears nothing."""
        self._dma_high = 0
        try:
            access = self._memory.at(at, _ACCESS.size)
        except BadAddress:
            return
        control, length, address = _ACCESS.unpack(access)
        if control & Control.SELECT:
            self._select(control >> 16)
        answer = 0
        try:
            if control & Control.READ:
                self._copy(self._memory.at(address, length))
            elif control & Control.WRITE:
                answer = int(Control.ERROR)
            elif control & Control.SKIP:
                self._offset += length
        except (BadAddress, OSError):
            answer = int(Control.ERROR)
        access[:4] = answer.to_bytes(4, "big")
