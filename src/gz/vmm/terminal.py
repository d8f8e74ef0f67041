# SPDX-License-Identifier: Apache-2.0
"""The user's terminal as the guest's: raw, with Ctrl-A as the way out."""

from __future__ import annotations

import os
import termios
import threading
import tty
from collections.abc import Callable

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
