# SPDX-License-Identifier: Apache-2.0
"""PrimeCell real time clock PL031 (Arm DDI 0224): seconds since 1970, and one alarm."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from enum import IntEnum

from gz.vmm.irq import LevelLine


class Reg(IntEnum):
    """Offsets (3.2)."""

    DR = 0x00
    MR = 0x04
    LR = 0x08
    CR = 0x0C
    IMSC = 0x10
    RIS = 0x14
    MIS = 0x18
    ICR = 0x1C
    PERIPH_ID0 = 0xFE0


IDENTITY = bytes([0x31, 0x10, 0x04, 0x00, 0x0D, 0xF0, 0x05, 0xB1])


class Pl031:
    """The counter runs with the host's clock plus what the guest's writes to LR added."""

    def __init__(self, line: LevelLine) -> None:
        self._line = line
        self._offset = 0
        self._match = 0
        self._load = 0
        self._mask = 0
        self._raised = 0
        self._alarm: threading.Timer | None = None
        self._lock = threading.Lock()
        self._readers: dict[int, Callable[[], int]] = {
            Reg.DR: self._now,
            Reg.MR: lambda: self._match,
            Reg.LR: lambda: self._load,
            Reg.CR: lambda: 1,
            Reg.IMSC: lambda: self._mask,
            Reg.RIS: lambda: self._raised,
            Reg.MIS: lambda: self._raised & self._mask,
        }
        for index, value in enumerate(IDENTITY):
            self._readers[Reg.PERIPH_ID0 + 4 * index] = lambda value=value: value

    def read(self, offset: int, size: int) -> int:
        reader = self._readers.get(offset)
        return 0 if reader is None else reader()

    def write(self, offset: int, size: int, value: int) -> None:
        with self._lock:
            match offset:
                case Reg.MR:
                    self._match = value
                    self._arm()
                case Reg.LR:
                    self._load = value
                    self._offset = value - int(time.time())
                    self._arm()
                case Reg.IMSC:
                    self._mask = value & 1
                case Reg.ICR:
                    self._raised &= ~value
                case _:
                    pass  # read-only, or none
            self._line.set(self._raised & self._mask != 0)

    def stop(self) -> None:
        with self._lock:
            if self._alarm is not None:
                self._alarm.cancel()

    def _now(self) -> int:
        return (int(time.time()) + self._offset) & 0xFFFF_FFFF

    def _arm(self) -> None:
        """The alarm is when counter and match register become equal (lock held)."""
        if self._alarm is not None:
            self._alarm.cancel()
        delay = (self._match - self._now()) & 0xFFFF_FFFF
        # A match in the past is one the counter meets after it wrapped; no timer for that.
        self._alarm = None
        if delay <= 0x7FFF_FFFF:
            self._alarm = threading.Timer(delay, self._expire)
            self._alarm.daemon = True
            self._alarm.start()

    def _expire(self) -> None:
        with self._lock:
            self._raised = 1
            self._line.set(self._raised & self._mask != 0)
