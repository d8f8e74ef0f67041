# SPDX-License-Identifier: Apache-2.0
"""What UARTs have in common: an output for what the guest sends, a queue of what it shall receive, a line."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod

from gz.vmm.irq import LevelLine
from gz.vmm.streams import Output

TYPED_AHEAD_MAX = 4096
"""Received bytes that wait for the guest before their sender has to."""


class SerialPort(ABC):
    """Sent bytes leave at once. Interrupts are levels: of bytes that wait, and of the end of sending."""

    def __init__(self, output: Output, line: LevelLine) -> None:
        self._output = output
        self._line = line
        self._tx_done = False
        self._stopped = False
        self._received = bytearray()
        self._lock = threading.Condition()
        """Can be taken again by who holds it."""
        output.when_room(self._room)

    def deliver(self, data: bytes) -> bool:
        """Receives `data`; waits while the guest has not read what came before. False once stopped."""
        with self._lock:
            while len(self._received) >= TYPED_AHEAD_MAX and not self._stopped:
                self._lock.wait()
            if self._stopped:
                return False
            self._received += data
            self._drive()
            return True

    def stop(self) -> None:
        with self._lock:
            self._stopped = True
            self._lock.notify_all()
        self._output.forget(self._room)

    @abstractmethod
    def _interrupts(self) -> bool:
        """There is an interrupt that the guest has enabled (lock held)."""

    def _drive(self) -> None:
        """Sets the line (lock held)."""
        self._line.set(self._interrupts())

    def _receive(self) -> int:
        """The next byte, 0 without."""
        with self._lock:
            if not self._received:
                return 0
            value = self._received.pop(0)
            self._lock.notify()
            self._drive()
            return value

    def _send(self, value: int) -> None:
        """A byte (lock held)."""
        self._output.write(bytes((value,)))
        self._tx_done = self._output.room > 0

    def _room(self) -> None:
        with self._lock:
            self._tx_done = True
            self._drive()
