# SPDX-License-Identifier: Apache-2.0
"""The signals that end a guest, taken only where that leaves nothing behind."""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        self.number = number


class Signals:
    """Signals wait until a block heeds them. A mask of the main thread would not do: Python's handlers run there
    whichever thread the kernel chose."""

    def __init__(self) -> None:
        self._heeded = False
        self._waiting: int | None = None
        for number in ENDING:
            signal.signal(number, self._take)

    @contextmanager
    def heeded(self) -> Generator[None]:
        """A signal, also one that came before, raises Interrupted in this block; those behind it wait."""
        try:
            self._heeded = True
            if self._waiting is not None:
                raise Interrupted(self._waiting)
            yield
        finally:
            self._heeded = False

    def leave(self, action: signal.Handlers) -> None:
        """What signals do from now on."""
        for number in ENDING:
            signal.signal(number, action)

    def _take(self, number: int, frame: object) -> None:
        if self._heeded:
            self._heeded = False
            raise Interrupted(number)
        self._waiting = number
