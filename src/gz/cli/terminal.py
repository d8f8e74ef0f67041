# SPDX-License-Identifier: Apache-2.0
"""The user's terminal attached to a console far away.

The escape character is Ctrl-A, as in QEMU: Ctrl-A x ends, Ctrl-A a sends Ctrl-A itself, Ctrl-A h lists the
keys."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Callable, Generator
from contextlib import contextmanager

ESCAPE = b"\x01"
HELP = b"\r\nCtrl-A x  power off and leave\r\nCtrl-A a  send Ctrl-A\r\nCtrl-A h  this help\r\n"


class Keys:
    """Splits what is typed into input for the console and commands for us."""

    def __init__(self) -> None:
        self.escaped = False
        self.leave = False
        self.help = False

    def feed(self, data: bytes) -> bytes:
        """The bytes for the console. Sets `leave` at Ctrl-A x; nothing after it counts."""
        out = bytearray()
        for byte in data:
            key = bytes([byte])
            if self.escaped:
                self.escaped = False
                if key in b"xX":
                    self.leave = True
                    break
                if key in b"hH?":
                    self.help = True
                else:
                    # Ctrl-A a and Ctrl-A Ctrl-A mean Ctrl-A; any other key means itself.
                    out += ESCAPE if key in b"aA\x01" else key
            elif key == ESCAPE:
                self.escaped = True
            else:
                out += key
        return bytes(out)


@contextmanager
def raw_terminal() -> Generator[bool]:
    """Standard input without line editing and signals while it is a terminal; whether it is one."""
    if not sys.stdin.isatty():
        yield False
        return
    before = termios.tcgetattr(0)
    try:
        tty.setraw(0, termios.TCSADRAIN)
        yield True
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def size() -> tuple[int, int]:
    """Rows and columns of the user's terminal."""
    columns, rows = os.get_terminal_size(0) if sys.stdin.isatty() else (80, 24)
    return rows, columns


class Typing:
    """Reads standard input in a thread: `send` gets the bytes, b"" at the end; `leave` is called at Ctrl-A x.

    With `keys` False nothing is an escape."""

    def __init__(self, send: Callable[[bytes], None], leave: Callable[[], None], *, keys: bool) -> None:
        self.send = send
        self.leave = leave
        self.keys = Keys() if keys else None
        self.left = False
        self.stopping, self.stop_writer = os.pipe()
        self.thread = threading.Thread(target=self._work, name="typing", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        os.close(self.stop_writer)
        self.thread.join()
        os.close(self.stopping)

    def _work(self) -> None:
        while True:
            ready, _, _ = select.select([0, self.stopping], [], [])
            if self.stopping in ready:
                return
            try:
                data = os.read(0, 4096)
            except OSError:
                data = b""
            at_end = not data
            if self.keys:
                data = self.keys.feed(data)
                if self.keys.help:
                    self.keys.help = False
                    os.write(2, HELP)
            try:
                if data or at_end:
                    self.send(data)
            except Exception:
                return  # the other side is gone, which its reader reports
            if self.keys and self.keys.leave:
                self.left = True
                self.leave()
                return
            if at_end:
                return
