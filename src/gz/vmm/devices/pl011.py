# SPDX-License-Identifier: Apache-2.0
"""PrimeCell UART PL011 (Arm DDI 0183), sending into an output, its receive FIFO as long as what was typed."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum, IntFlag

from gz.vmm.devices.serial import SerialPort
from gz.vmm.irq import LevelLine
from gz.vmm.streams import Output


class Reg(IntEnum):
    """Offsets (3.2)."""

    DR = 0x00
    RSR = 0x04
    FR = 0x18
    ILPR = 0x20
    IBRD = 0x24
    FBRD = 0x28
    LCR_H = 0x2C
    CR = 0x30
    IFLS = 0x34
    IMSC = 0x38
    RIS = 0x3C
    MIS = 0x40
    ICR = 0x44
    DMACR = 0x48
    PERIPH_ID0 = 0xFE0


class Flag(IntFlag):
    """UARTFR (3.3.3)."""

    RXFE = 1 << 4
    TXFF = 1 << 5
    TXFE = 1 << 7


class Interrupt(IntFlag):
    """UARTIMSC, RIS, MIS, ICR (3.3.10)."""

    RX = 1 << 4
    TX = 1 << 5
    RT = 1 << 6


IDENTITY = bytes([0x11, 0x10, 0x14, 0x00, 0x0D, 0xF0, 0x05, 0xB1])
"""UARTPeriphID0-3 and UARTPCellID0-3, one per word from PERIPH_ID0 (3.3.14)."""

WRITABLE = {
    Reg.ILPR: 0xFF,
    Reg.IBRD: 0xFFFF,
    Reg.FBRD: 0x3F,
    Reg.LCR_H: 0xFF,
    Reg.CR: 0xFF87,
    Reg.IFLS: 0x3F,
    Reg.DMACR: 0x7,
}
"""Registers that only keep what was written, and their bits."""

RESET = {Reg.CR: 0x300, Reg.IFLS: 0x12}


class Pl011(SerialPort):
    """While the output has no room the transmit FIFO reads full.

    That the receive interrupts are levels is what drivers that read until RXFE need."""

    def __init__(self, output: Output, line: LevelLine) -> None:
        self._kept = {register: RESET.get(register, 0) for register in WRITABLE}
        self._mask = 0
        self._readers: dict[int, Callable[[], int]] = {
            Reg.DR: self._receive,
            Reg.RSR: lambda: 0,
            Reg.FR: self._flags,
            Reg.IMSC: lambda: self._mask,
            Reg.RIS: self._raised,
            Reg.MIS: lambda: self._raised() & self._mask,
        }
        for register in WRITABLE:
            self._readers[register] = lambda register=register: self._kept[register]
        for index, value in enumerate(IDENTITY):
            self._readers[Reg.PERIPH_ID0 + 4 * index] = lambda value=value: value
        super().__init__(output, line)

    def read(self, offset: int, size: int) -> int:
        reader = self._readers.get(offset)
        return 0 if reader is None else reader()

    def write(self, offset: int, size: int, value: int) -> None:
        if offset == Reg.DR:
            with self._lock:
                self._send(value & 0xFF)
                self._drive()
        elif offset == Reg.IMSC:
            with self._lock:
                self._mask = value & 0x7FF
                self._drive()
        elif offset == Reg.ICR:
            with self._lock:
                if value & Interrupt.TX:
                    self._tx_done = False
                self._drive()
        elif offset in WRITABLE:
            self._kept[Reg(offset)] = value & WRITABLE[Reg(offset)]

    def _flags(self) -> int:
        flags = Flag.TXFE if self._output.room else Flag.TXFF
        return int(flags if self._received else flags | Flag.RXFE)

    def _raised(self) -> int:
        return (Interrupt.RX | Interrupt.RT if self._received else 0) | (Interrupt.TX if self._tx_done else 0)

    def _interrupts(self) -> bool:
        return self._raised() & self._mask != 0
