# SPDX-License-Identifier: Apache-2.0
"""irqfd and ioeventfd, which a kernel driver has, in user space."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class IoEventFd:
    """size 0: any; data None: any."""

    size: int
    data: int | None
    fd: int


class IoEventFds(dict[int, list[IoEventFd]]):
    """By guest-physical address of the write."""

    def add(self, address: int, size: int, fd: int, data: int | None) -> None:
        """ValueError if some write would match two."""
        if size not in (0, 1, 2, 4, 8):
            raise ValueError(f"an ioeventfd cannot watch writes of {size} bytes")
        rows = self.setdefault(address, [])
        for row in rows:
            if (row.size == size or 0 in (row.size, size)) and (row.data == data or None in (row.data, data)):
                raise ValueError(f"an ioeventfd at {address:#x} exists already")
        rows.append(IoEventFd(size, data, fd))

    def signal(self, address: int, size: int, data: int) -> bool:
        """Signals the one that matches a write; False if none does."""
        for row in self.get(address, ()):
            if row.size in (0, size) and (row.data is None or row.data == data & ((1 << 8 * size) - 1)):
                os.eventfd_write(row.fd, 1)
                return True
        return False


class IrqFds:
    """A thread that turns events into interrupts; started with the first eventfd."""

    def __init__(self, raise_line: Callable[[int], None]) -> None:
        self._raise_line = raise_line
        self._lines: dict[int, int] = {}
        self._changed = -1
        self._thread: threading.Thread | None = None
        self._closing = False

    def add(self, fd: int, spi: int) -> None:
        if self._thread is None:
            self._changed = os.eventfd(0, os.EFD_CLOEXEC)
            self._thread = threading.Thread(target=self._work, name="irqfd", daemon=True)
            self._thread.start()
        self._lines[fd] = spi
        os.eventfd_write(self._changed, 1)

    def close(self) -> None:
        if self._thread is not None:
            self._closing = True
            os.eventfd_write(self._changed, 1)
            self._thread.join()
            os.close(self._changed)

    def _work(self) -> None:
        while not self._closing:
            poll = select.poll()
            for fd in (self._changed, *self._lines):
                poll.register(fd, select.POLLIN)
            for fd, _ in poll.poll():
                with suppress(OSError):
                    os.eventfd_read(fd)
                    if fd != self._changed:
                        self._raise_line(self._lines[fd])
