# SPDX-License-Identifier: Apache-2.0
"""Bytes between the guest's consoles and file descriptors of the host, without ever making a vCPU wait."""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Callable

BACKLOG_MAX = 0x1_0000
"""Bytes an output keeps for a slow reader before its writers have to wait."""
READ_MAX = 4096
"""Bytes an input takes at once."""
GATHER_SECONDS = 0.002
"""How long an output waits for more bytes before it writes: consoles send single characters."""


class Output:
    """A file descriptor with a thread that writes to it. `write` never blocks; who writes asks `room` first.

    When the reader is gone the bytes are dropped and `lost` is set."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        self.lost = False
        self._backlog = bytearray()
        self._pending = 0
        self._changed = threading.Condition()
        self._waiting: list[Callable[[], None]] = []
        self._closing = False
        self._thread = threading.Thread(target=self._work, name=f"output {name}", daemon=True)
        self._thread.start()

    @property
    def room(self) -> int:
        """Bytes `write` still takes."""
        return max(BACKLOG_MAX - self._pending, 0)

    def write(self, data: bytes | memoryview) -> None:
        with self._changed:
            self._backlog += data
            first = self._pending == 0
            self._pending += len(data)
            if first:
                self._changed.notify()

    def when_room(self, call: Callable[[], None]) -> None:
        """Calls back each time the output, once full, has room again."""
        self._waiting.append(call)

    def forget(self, call: Callable[[], None]) -> None:
        """Undoes `when_room`."""
        self._waiting.remove(call)

    def close(self, seconds: float | None = None) -> bool:
        """Writes out what is left and ends the thread; False if that took longer than `seconds`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._backlog:
                    if self._closing:
                        return
                    self._changed.wait()
            if not self._closing and len(self._backlog) < BACKLOG_MAX:
                time.sleep(GATHER_SECONDS)
            with self._changed:
                data, self._backlog = self._backlog, bytearray()
            self._write_out(data)
            with self._changed:
                was_full = self._pending >= BACKLOG_MAX
                self._pending -= len(data)
            if was_full:
                for call in tuple(self._waiting):
                    call()

    def _write_out(self, data: bytearray) -> None:
        left = memoryview(data)
        while left and not self.lost:
            try:
                left = left[os.write(self.fd, left) :]
            except BlockingIOError:
                time.sleep(GATHER_SECONDS)
            except OSError:
                self.lost = True


class Input:
    """A thread that reads a file descriptor and hands its bytes to `deliver`, which may make it wait.

    It ends with the input, or when `deliver` gives False, or by `stop`."""

    def __init__(self, fd: int, name: str, deliver: Callable[[bytes], bool]) -> None:
        self._fd = fd
        self._deliver = deliver
        self._stop_fd = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._work, name=f"input {name}", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """`deliver` must not be waiting any more."""
        os.eventfd_write(self._stop_fd, 1)
        self._thread.join()
        os.close(self._stop_fd)

    def _work(self) -> None:
        poll = select.poll()
        poll.register(self._stop_fd, select.POLLIN)
        poll.register(self._fd, select.POLLIN)
        while True:
            if any(fd == self._stop_fd for fd, _ in poll.poll()):
                return
            try:
                data = os.read(self._fd, READ_MAX)
            except OSError:
                return
            if not data or not self._deliver(data):
                return
