# SPDX-License-Identifier: Apache-2.0
"""The user's terminal as the guest's: raw, with Ctrl-A as the way out, and how large it is."""

from __future__ import annotations

import os
import signal
import termios
import threading
import tty
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

ESCAPE = 0x01
"""Ctrl-A: then x ends the guest, Ctrl-A sends one."""


class Terminal:
    """Raw mode until `close`. `fd` is what the guest reads: the keys without the escapes."""

    def __init__(self, keyboard: int, leave: Callable[[], None]) -> None:
        self._keyboard = keyboard
        self._leave = leave
        self._saved = termios.tcgetattr(keyboard)
        self.fd, self._keys = os.pipe()
        tty.setraw(keyboard)
        threading.Thread(target=self._work, name="terminal", daemon=True).start()

    def close(self) -> None:
        termios.tcsetattr(self._keyboard, termios.TCSADRAIN, self._saved)

    def _work(self) -> None:
        escaped = False
        while data := os.read(self._keyboard, 4096):
            keys = bytearray()
            for key in data:
                if not escaped and key == ESCAPE:
                    escaped = True
                    continue
                if escaped and key in b"xX":
                    self._leave()
                    return
                escaped = False
                keys.append(key)
            os.write(self._keys, keys)
        os.close(self._keys)


class Size:
    """How large the terminal is, looked at again at each SIGWINCH. `read` gives columns and rows, OSError or
    ValueError if it cannot. Made by the main thread."""

    def __init__(self, read: Callable[[], tuple[int, int]]) -> None:
        self._read = read
        self._listeners: list[Callable[[], None]] = []
        self._calling = threading.Lock()
        self.columns_rows = (0, 0)
        """Both 0 while it is not known."""
        self._look()
        self._signalled = os.eventfd(0, os.EFD_CLOEXEC)
        signal.signal(signal.SIGWINCH, lambda number, frame: os.eventfd_write(self._signalled, 1))
        threading.Thread(target=self._work, name="size", daemon=True).start()

    def when_changed(self, call: Callable[[], None]) -> None:
        """Calls back, in a thread of its own, after each change."""
        with self._calling:
            self._listeners.append(call)

    def forget(self, call: Callable[[], None]) -> None:
        """Undoes `when_changed`; a call that goes on has ended then."""
        with self._calling:
            self._listeners.remove(call)

    def _look(self) -> None:
        with suppress(OSError, ValueError):
            columns, rows = self._read()
            self.columns_rows = min(max(columns, 0), 0xFFFF), min(max(rows, 0), 0xFFFF)

    def _work(self) -> None:
        while True:
            os.eventfd_read(self._signalled)
            before = self.columns_rows
            self._look()
            if self.columns_rows != before:
                with self._calling:
                    for call in self._listeners:
                        call()


def size_in(path: str) -> tuple[int, int]:
    """Columns and rows out of a file with two numbers. OSError, ValueError."""
    columns, rows = map(int, Path(path).read_text().split())
    return columns, rows
