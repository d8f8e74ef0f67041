# SPDX-License-Identifier: Apache-2.0
"""16550A UART (National Semiconductor PC16550D): byte registers, sending into an output."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from gz.vmm.devices.serial import TYPED_AHEAD_MAX, SerialPort
from gz.vmm.irq import LevelLine
from gz.vmm.streams import Output

CLOCK_HZ = 1_843_200


class Reg(IntEnum):
    """Offsets; DATA and IER are the divisor's bytes while LCR.DLAB is set, IIR is FCR when written."""

    DATA = 0
    IER = 1
    IIR = 2
    LCR = 3
    MCR = 4
    LSR = 5
    MSR = 6
    SCR = 7


class Enable(IntFlag):
    """IER (8.7)."""

    RECEIVED = 1 << 0
    TRANSMIT_EMPTY = 1 << 1


class Identity(IntEnum):
    """IIR (8.6), without the FIFO bits."""

    NONE = 0x01
    TRANSMIT_EMPTY = 0x02
    RECEIVED = 0x04


class Status(IntFlag):
    """LSR (8.4)."""

    DATA_READY = 1 << 0
    TRANSMIT_EMPTY = 1 << 5
    IDLE = 1 << 6


DLAB = 1 << 7
FIFO_ENABLE = 1 << 0
CLEAR_RECEIVED = 1 << 1
FIFOS_ENABLED = 0xC0
LOOP = 1 << 4
CONNECTED = 0xB0
"""MSR: carrier, data set ready, clear to send."""


class Uart8250(SerialPort):
    """While the output has no room the transmitter is not empty.

    With MCR.LOOP what is sent comes back, and the modem control bits are the modem status (8.7.1)."""

    def __init__(self, output: Output, line: LevelLine) -> None:
        self._kept: dict[Reg, int] = dict.fromkeys((Reg.LCR, Reg.MCR, Reg.SCR), 0)
        self._enabled = 0
        self._divisor = 0x0C  # 9600 baud
        self._fifos = False
        super().__init__(output, line)

    def read(self, offset: int, size: int) -> int:
        """One register, however wide the access; 0 outside."""
        with self._lock:
            match offset:
                case Reg.DATA:
                    return self._divisor & 0xFF if self._dlab else self._receive()
                case Reg.IER:
                    return self._divisor >> 8 if self._dlab else self._enabled
                case Reg.IIR:
                    return self._identify()
                case Reg.LSR:
                    return self._status()
                case Reg.MSR:
                    return self._modem()
                case Reg.LCR | Reg.MCR | Reg.SCR:
                    return self._kept[Reg(offset)]
                case _:
                    return 0

    def write(self, offset: int, size: int, value: int) -> None:
        value &= 0xFF
        with self._lock:
            match offset:
                case Reg.DATA if self._dlab:
                    self._divisor = self._divisor & 0xFF00 | value
                case Reg.DATA:
                    self._send(value)
                case Reg.IER if self._dlab:
                    self._divisor = self._divisor & 0xFF | value << 8
                case Reg.IER:
                    raised = value & ~self._enabled & Enable.TRANSMIT_EMPTY
                    self._enabled = value & 0x0F
                    # Enabling it interrupts when the transmitter is empty already.
                    self._tx_done |= bool(raised) and self._output.room > 0
                case Reg.IIR:
                    self._fifos = bool(value & FIFO_ENABLE)
                    if value & CLEAR_RECEIVED:
                        self._received.clear()
                        self._lock.notify_all()
                case Reg.LCR | Reg.MCR | Reg.SCR:
                    self._kept[Reg(offset)] = value & 0x1F if offset == Reg.MCR else value
                case _:
                    pass  # read-only
            self._drive()

    # With the lock held:

    @property
    def _dlab(self) -> bool:
        return bool(self._kept[Reg.LCR] & DLAB)

    def _send(self, value: int) -> None:
        if self._kept[Reg.MCR] & LOOP:
            if len(self._received) < TYPED_AHEAD_MAX:
                self._received.append(value)
            self._tx_done = True
        else:
            super()._send(value)

    def _identify(self) -> int:
        """The most urgent interrupt; reading that of the transmitter takes it back (8.6)."""
        fifos = FIFOS_ENABLED if self._fifos else 0
        if self._received and self._enabled & Enable.RECEIVED:
            return fifos | Identity.RECEIVED
        if self._tx_done and self._enabled & Enable.TRANSMIT_EMPTY:
            self._tx_done = False
            self._drive()
            return fifos | Identity.TRANSMIT_EMPTY
        return fifos | Identity.NONE

    def _status(self) -> int:
        ready = Status.DATA_READY if self._received else Status(0)
        return int(ready | Status.TRANSMIT_EMPTY | Status.IDLE if self._output.room else ready)

    def _modem(self) -> int:
        control = self._kept[Reg.MCR]
        if not control & LOOP:
            return CONNECTED
        # RTS to CTS, DTR to DSR, OUT1 to RI, OUT2 to DCD.
        return (control & 2) << 3 | (control & 1) << 5 | (control & 4) << 4 | (control & 8) << 4

    def _interrupts(self) -> bool:
        received = self._received and self._enabled & Enable.RECEIVED
        sent = self._tx_done and self._enabled & Enable.TRANSMIT_EMPTY
        return bool(received or sent)
