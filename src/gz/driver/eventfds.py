# SPDX-License-Identifier: Apache-2.0
"""irqfd and ioeventfd, which a kernel driver has, in user space."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress

from gz.driver.shared import WATCHES_MAX, Shared


def watch(shared: Shared, address: int, size: int, fd: int, data: int | None) -> None:
    """Adds an ioeventfd. ValueError if there is no room or some write would match two."""
    if size not in (0, 1, 2, 4, 8):
        raise ValueError(f"an ioeventfd cannot watch writes of {size} bytes")
    count = shared.watch_count
    for index in range(count):
        row = shared.watches[index]
        same_size = row.length == size or 0 in (row.length, size)
        if row.address == address and same_size and (data is None or not row.exact or row.data == data):
            raise ValueError(f"an ioeventfd at {address:#x} exists already")
    if count == WATCHES_MAX:
        raise ValueError(f"a VM has at most {WATCHES_MAX} ioeventfds")
    row = shared.watches[count]
    row.address, row.length, row.fd = address, size, fd
    row.exact, row.data = int(data is not None), data or 0
    shared.watch_count = count + 1


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
