# SPDX-License-Identifier: Apache-2.0
"""PrimeCell UART PL011 (DDI 0183)."""

from __future__ import annotations

from gz.bits import Register, Window, at, field, u32

WINDOW_SIZE = 0x1000


class Pl011(Window):
    DR: u32 = at(0x000)
    """Data; on a read bits 11:8 are errors."""
    RSR: u32 = at(0x004)
    FR: u32 = at(0x018)
    ILPR: u32 = at(0x020)
    IBRD: u32 = at(0x024)
    FBRD: u32 = at(0x028)
    LCR_H: u32 = at(0x02C)
    CR: u32 = at(0x030)
    IFLS: u32 = at(0x034)
    IMSC: u32 = at(0x038)
    RIS: u32 = at(0x03C)
    MIS: u32 = at(0x040)
    ICR: u32 = at(0x044)
    DMACR: u32 = at(0x048)
    PERIPHID0: u32 = at(0xFE0)
    PERIPHID1: u32 = at(0xFE4)
    PERIPHID2: u32 = at(0xFE8)
    PERIPHID3: u32 = at(0xFEC)
    PCELLID0: u32 = at(0xFF0)
    PCELLID1: u32 = at(0xFF4)
    PCELLID2: u32 = at(0xFF8)
    PCELLID3: u32 = at(0xFFC)


class FR(Register, width=32):
    CTS = field(0)
    DSR = field(1)
    DCD = field(2)
    BUSY = field(3)
    RXFE = field(4)
    TXFF = field(5)
    RXFF = field(6)
    TXFE = field(7)
    RI = field(8)


class LCR_H(Register, width=32):
    BRK = field(0)
    PEN = field(1)
    EPS = field(2)
    STP2 = field(3)
    FEN = field(4)
    WLEN = field(6, 5)
    SPS = field(7)


class CR(Register, width=32):
    UARTEN = field(0)
    SIREN = field(1)
    SIRLP = field(2)
    LBE = field(7)
    TXE = field(8)
    RXE = field(9)
    DTR = field(10)
    RTS = field(11)
    Out1 = field(12)
    Out2 = field(13)
    RTSEn = field(14)
    CTSEn = field(15)


class Interrupt(Register, width=32):
    """IMSC, RIS, MIS and ICR."""

    RIM = field(0)
    CTSM = field(1)
    DCDM = field(2)
    DSRM = field(3)
    RX = field(4)
    TX = field(5)
    RT = field(6)
    FE = field(7)
    PE = field(8)
    BE = field(9)
    OE = field(10)


PERIPHERAL_ID = (0x11, 0x10, 0x14, 0x00)
PRIMECELL_ID = (0x0D, 0xF0, 0x05, 0xB1)
