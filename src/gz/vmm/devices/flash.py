# SPDX-License-Identifier: Apache-2.0
"""NOR flash with the Intel command set (CFI command set 1): two 16-bit chips side by side, as QEMU's `virt` has them.

Both chips get the same commands, in the low byte of each half of a word, and are never busy. While the bank reads as an
array the guest has it as memory, so that it executes there and reads by any instruction; its stores come here. In all
other modes its loads come here too."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from enum import IntEnum, IntFlag

CHIPS = 2
CHIP_WIDTH = 2
BANK_WIDTH = CHIPS * CHIP_WIDTH
SECTOR = 0x4_0000
"""Bytes of the bank that one erasure takes, half of them in each chip."""
BUFFER = 0x1000
"""Bytes of the bank that one buffered write can reach, from a multiple of them on."""
ERASED = 0xFF
MANUFACTURER, DEVICE = 0x89, 0x18


class Command(IntEnum):
    """JESD68.01 and the command set's description (Intel, Common Flash Memory Interface, command set 0001h)."""

    PROGRAM_ALTERNATE = 0x10
    ERASE = 0x20
    PROGRAM = 0x40
    CLEAR_STATUS = 0x50
    LOCK = 0x60
    READ_STATUS = 0x70
    READ_ID = 0x90
    QUERY = 0x98
    CONFIRM = 0xD0
    BUFFER = 0xE8
    READ_ARRAY = 0xFF


class Status(IntFlag):
    LOCKED = 0x02
    PROGRAM_FAILED = 0x10
    ERASE_FAILED = 0x20
    READY = 0x80

    WRONG_SEQUENCE = PROGRAM_FAILED | ERASE_FAILED


MODES = (Command.READ_ARRAY, Command.READ_STATUS, Command.READ_ID, Command.QUERY)
"""What loads give."""
STEPS = (Command.PROGRAM_ALTERNATE, Command.PROGRAM, Command.ERASE, Command.LOCK, Command.BUFFER)
"""Commands that the following stores belong to; loads meanwhile give the status."""


def query_table(size: int) -> bytes:
    """What a chip of a bank of `size` bytes says of itself (JESD68.01, and from 0x31 on the command set's own)."""
    table = bytearray(0x100)
    sectors = size // SECTOR
    table[0x10:0x1B] = struct.pack("<3sHHHH", b"QRY", 1, 0x31, 0, 0)
    table[0x1B:0x27] = bytes([0x45, 0x55, 0, 0, 7, 7, 10, 0, 4, 4, 4, 0])  # volts; typical and longest times
    table[0x27] = (size // CHIPS).bit_length() - 1
    table[0x28:0x2C] = struct.pack("<HH", 2, (BUFFER // CHIPS).bit_length() - 1)
    table[0x2C:0x31] = struct.pack("<BHH", 1, sectors - 1, SECTOR // CHIPS // 0x100)
    table[0x31:0x36] = b"PRI10"
    table[0x3F] = 1
    return bytes(table)


class Flash:
    """A bank of `size` bytes. The guest has the first of them, `front`, as memory for as long as `show` says so; behind
    them every byte is `rest`, for ever. `keep` is told of every change as (offset, bytes); without it nothing changes.
    OSError of `keep` is a failure that the guest sees."""

    def __init__(
        self,
        front: memoryview,
        size: int,
        show: Callable[[bool], object],
        keep: Callable[[int, bytes], object] | None,
        rest: int = ERASED,
    ) -> None:
        self._front = front
        self._show = show
        self._keep = keep
        self._rest = bytes([rest])
        self._query = query_table(size)
        self._mode = Command.READ_ARRAY
        self._step: Command | None = None
        self._status = Status.READY
        self._awaited: int | None = None
        self._buffer: list[tuple[int, bytes]] = []
        self._lock = threading.Lock()

    def read(self, offset: int, size: int) -> int:
        with self._lock:
            if self._mode == Command.READ_ARRAY:
                data = bytes(self._front[offset : offset + size]).ljust(size, self._rest)
            else:
                first = offset - offset % BANK_WIDTH
                words = [self._answer(at) for at in range(first, offset + size, BANK_WIDTH)]
                data = b"".join(struct.pack("<HH", word, word) for word in words)[offset - first :][:size]
        return int.from_bytes(data, "little")

    def write(self, offset: int, size: int, value: int) -> None:
        with self._lock:
            step = self._step
            match step:
                case None:
                    self._command(value & 0xFF)
                case Command.BUFFER:
                    self._fill(offset, size, value)
                case Command.PROGRAM | Command.PROGRAM_ALTERNATE:
                    self._step = None
                    self._program([(offset, value.to_bytes(size, "little"))])
                case _:
                    self._step = None
                    self._confirm(step, offset, value & 0xFF)

    def _answer(self, offset: int) -> int:
        """What a chip gives for a word of the bank."""
        index = offset // BANK_WIDTH & 0xFF
        match self._mode:
            case Command.READ_ID:
                return {0: MANUFACTURER, 1: DEVICE, 2: int(self._is_locked(offset))}.get(index, 0)
            case Command.QUERY:
                return self._query[index]
            case _:
                return int(self._status)

    def _command(self, command: int) -> None:
        if command == Command.CLEAR_STATUS:
            self._status = Status.READY
        elif command in STEPS:
            self._step = Command(command)
            self._awaited = None
            self._enter(Command.READ_STATUS)
        else:
            self._enter(Command(command) if command in MODES else Command.READ_ARRAY)

    def _enter(self, mode: Command) -> None:
        if (mode == Command.READ_ARRAY) != (self._mode == Command.READ_ARRAY):
            self._show(mode == Command.READ_ARRAY)
        self._mode = mode

    def _confirm(self, step: Command, offset: int, command: int) -> None:
        if command == Command.READ_ARRAY:
            self._enter(Command.READ_ARRAY)
        elif step == Command.LOCK:
            pass  # sectors have no locks, which says READ_ID too
        elif command != Command.CONFIRM:
            self._status |= Status.WRONG_SEQUENCE
        elif step == Command.BUFFER:
            self._program(self._buffer)
        else:
            self._change([(offset - offset % SECTOR, bytes([ERASED]) * SECTOR)], Status.ERASE_FAILED)

    def _fill(self, offset: int, size: int, value: int) -> None:
        """A store that follows BUFFER: the number of words less one, then the words, then CONFIRM."""
        if self._awaited is None:
            self._awaited = (value & 0xFFFF) + 1
            self._buffer = []
            if self._awaited > BUFFER // BANK_WIDTH:
                self._step = None
                self._status |= Status.WRONG_SEQUENCE
        elif self._awaited:
            self._awaited -= 1
            self._buffer.append((offset, value.to_bytes(size, "little")))
        else:
            self._step = None
            self._confirm(Command.BUFFER, offset, value & 0xFF)

    def _program(self, pieces: list[tuple[int, bytes]]) -> None:
        """Bits go from 1 to 0 only."""
        if len({offset // BUFFER for offset, _ in pieces}) > 1:
            self._status |= Status.WRONG_SEQUENCE
            return
        changed = [
            (offset, bytes(old & new for old, new in zip(self._front[offset : offset + len(data)], data, strict=False)))
            for offset, data in pieces
        ]
        self._change(changed, Status.PROGRAM_FAILED)

    def _change(self, pieces: list[tuple[int, bytes]], failure: Status) -> None:
        for offset, data in pieces:
            if self._keep is None or self._is_locked(offset):
                self._status |= failure | Status.LOCKED
                return
            try:
                self._keep(offset, data)
            except OSError:
                self._status |= failure
                return
            self._front[offset : offset + len(data)] = data

    def _is_locked(self, offset: int) -> bool:
        return self._keep is None or offset >= len(self._front)
