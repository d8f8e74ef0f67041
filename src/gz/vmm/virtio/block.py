# SPDX-License-Identifier: Apache-2.0
"""Virtio block device (VIRTIO 1.3, 5.2) on a raw file or block device."""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path

from gz.vmm.memory import GuestMemory
from gz.vmm.virtio.device import VirtioDevice
from gz.vmm.virtio.queue import Chain, QueueBroken, cut

SECTOR = 512
QUEUE_SIZE = 256
SEGMENTS_MAX = QUEUE_SIZE - 2
"""Data buffers of one request: the queue's size without header and status."""
ID_SIZE = 20

F_SEG_MAX = 1 << 2
F_RO = 1 << 5
F_BLK_SIZE = 1 << 6
F_FLUSH = 1 << 9

_HEADER = struct.Struct("<IIQ")
_CONFIG = struct.Struct("<QIIHBBI")
"""capacity, size_max, seg_max, cylinders, heads, sectors, blk_size (5.2.4)."""


class Request(IntEnum):
    IN = 0
    OUT = 1
    FLUSH = 4
    GET_ID = 8


class Answer(IntEnum):
    OK = 0
    IOERR = 1
    UNSUPP = 2


OK, IOERR, UNSUPP = map(int, Answer)
"""For every request: attributes of an enumeration are calls."""


class DiskError(Exception):
    """A disk that cannot be used; the text says which and why."""


class Disk:
    """A raw image, opened and locked against other VMMs: one writer or any number of readers."""

    def __init__(self, path: str, read_only: bool) -> None:
        self.path = path
        self.read_only = read_only
        try:
            self.fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
        except OSError as error:
            hint = "; add ,ro to use it read-only" if isinstance(error, PermissionError) and not read_only else ""
            raise DiskError(f"disk {path}: {error.strerror}{hint}") from None
        try:
            mode = os.fstat(self.fd).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
                raise DiskError(f"disk {path}: neither a file nor a block device")
            self.sectors = os.lseek(self.fd, 0, os.SEEK_END) // SECTOR
            if self.sectors == 0:
                raise DiskError(f"disk {path}: smaller than one sector of {SECTOR} bytes")
            try:
                fcntl.flock(self.fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DiskError(f"disk {path}: in use by another guest") from None
        except BaseException:
            os.close(self.fd)
            raise

    def transfer(self, buffers: list[memoryview], offset: int, left: int, write: bool) -> None:
        """Reads into or writes from all buffers, `left` bytes, in order, at a byte offset. OSError if that fails."""
        move = os.pwritev if write else os.preadv
        while left:
            done = move(self.fd, buffers, offset)
            if done == 0:
                raise OSError("the file ended")
            left -= done
            offset += done
            if left:
                buffers = cut(buffers, done, left)

    def flush(self) -> None:
        os.fdatasync(self.fd)

    def close(self) -> None:
        os.close(self.fd)


class Block(VirtioDevice):
    """One disk, one queue. Data goes between the file and guest memory without a copy."""

    KIND = 2
    NAME = "block device"

    def __init__(self, memory: GuestMemory, disk: Disk) -> None:
        features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | (F_RO if disk.read_only else 0)
        config = _CONFIG.pack(disk.sectors, 0, SEGMENTS_MAX, 0, 0, 0, SECTOR)
        super().__init__(memory, features, [QUEUE_SIZE], config)
        self.disk = disk
        self._performers: dict[int, Callable[[int, Chain, list[memoryview]], tuple[int, int]]] = {
            Request.IN: self._read,
            Request.OUT: self._write,
            Request.FLUSH: self._flush,
            Request.GET_ID: self._identify,
        }
        self._id = Path(disk.path).name.encode()[:ID_SIZE]

    def serve(self) -> None:
        self.serve_queue(self.queues[0], self._request)

    def stop(self) -> None:
        super().stop()
        self.disk.close()

    def _request(self, chain: Chain) -> int:
        header = chain.read(_HEADER.size)
        if len(header) < _HEADER.size or not chain.writable:
            raise QueueBroken("a request without header or status byte")
        kind, _, sector = _HEADER.unpack(header)
        *room, last = chain.writable
        if len(last) > 1:
            room.append(last[:-1])
        perform = self._performers.get(kind)
        try:
            answer, written = (UNSUPP, 0) if perform is None else perform(sector, chain, room)
        except OSError:
            answer, written = IOERR, 0
        last[-1] = answer
        return written + 1

    # What is asked: the answer and the bytes written into `room`, which is all buffers but for the status byte.

    def _read(self, sector: int, chain: Chain, room: list[memoryview]) -> tuple[int, int]:
        length = chain.room - 1
        if not self._fits(sector, length):
            return IOERR, 0
        self.disk.transfer(room, sector * SECTOR, length, write=False)
        return OK, length

    def _write(self, sector: int, chain: Chain, room: list[memoryview]) -> tuple[int, int]:
        length = sum(map(len, chain.readable)) - _HEADER.size
        if self.disk.read_only or not self._fits(sector, length):
            return IOERR, 0
        self.disk.transfer(cut(chain.readable, _HEADER.size, length), sector * SECTOR, length, write=True)
        return OK, 0

    def _flush(self, sector: int, chain: Chain, room: list[memoryview]) -> tuple[int, int]:
        self.disk.flush()
        return OK, 0

    def _identify(self, sector: int, chain: Chain, room: list[memoryview]) -> tuple[int, int]:
        return OK, chain.write(self._id.ljust(ID_SIZE, b"\0")[: chain.room - 1])

    def _fits(self, sector: int, length: int) -> bool:
        return length % SECTOR == 0 and sector + length // SECTOR <= self.disk.sectors
