# SPDX-License-Identifier: Apache-2.0
"""PL011, PL031, the bus and the streams."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ring import settles

from gz.vmm.bus import GRANULE_BITS, Bus, Overlap
from gz.vmm.devices.gicv2m import MsiFrame
from gz.vmm.devices.pl011 import Flag, Interrupt, Pl011
from gz.vmm.devices.pl011 import Reg as Uart
from gz.vmm.devices.pl031 import Pl031
from gz.vmm.devices.pl031 import Reg as Rtc
from gz.vmm.devices.serial import TYPED_AHEAD_MAX
from gz.vmm.irq import LevelLine
from gz.vmm.streams import BACKLOG_MAX, Input, Output


class Lines(list[tuple[int, int]]):
    def set(self, spi: int, level: int) -> None:
        self.append((spi, level))


@pytest.fixture
def pipe() -> Iterator[tuple[int, Output]]:
    reader, writer = os.pipe()
    output = Output(writer, "test")
    yield reader, output
    output.close(1)
    os.close(reader)
    os.close(writer)


@pytest.fixture
def uart(pipe: tuple[int, Output]) -> tuple[Pl011, Lines]:
    lines = Lines()
    return Pl011(pipe[1], LevelLine(lines.set, 1)), lines


def test_uart_identity(uart: tuple[Pl011, Lines]) -> None:
    ident = [uart[0].read(Uart.PERIPH_ID0 + 4 * n, 4) for n in range(8)]
    assert ident == [0x11, 0x10, 0x14, 0, 0x0D, 0xF0, 0x05, 0xB1]


def test_uart_sends(uart: tuple[Pl011, Lines], pipe: tuple[int, Output]) -> None:
    assert uart[0].read(Uart.FR, 4) == Flag.TXFE | Flag.RXFE
    for byte in b"Linux\n":
        uart[0].write(Uart.DR, 2, byte)
    found = b""
    while len(found) < 6:
        found += os.read(pipe[0], 100)
    assert found == b"Linux\n"


def test_uart_interrupts_when_sent(uart: tuple[Pl011, Lines]) -> None:
    pl011, lines = uart
    assert lines == [(1, 0)]
    pl011.write(Uart.DR, 4, 65)
    assert pl011.read(Uart.RIS, 4) == Interrupt.TX and pl011.read(Uart.MIS, 4) == 0
    pl011.write(Uart.IMSC, 4, Interrupt.TX)
    assert lines[-1] == (1, 1) and pl011.read(Uart.MIS, 4) == Interrupt.TX
    pl011.write(Uart.ICR, 4, Interrupt.TX)
    assert lines == [(1, 0), (1, 1), (1, 0)]


def test_uart_receives_until_empty(uart: tuple[Pl011, Lines]) -> None:
    pl011, lines = uart
    pl011.write(Uart.IMSC, 4, Interrupt.RX | Interrupt.RT)
    assert pl011.deliver(b"ls\n")
    assert lines[-1] == (1, 1) and not pl011.read(Uart.FR, 4) & Flag.RXFE
    # Clearing does not take away bytes that are there.
    pl011.write(Uart.ICR, 4, 0x7FF)
    assert lines[-1] == (1, 1)
    read = bytes(pl011.read(Uart.DR, 4) for _ in range(3))
    assert read == b"ls\n" and lines[-1] == (1, 0)
    assert pl011.read(Uart.FR, 4) & Flag.RXFE and pl011.read(Uart.DR, 4) == 0


def test_uart_makes_typing_wait(uart: tuple[Pl011, Lines]) -> None:
    pl011, _ = uart
    assert pl011.deliver(b"x" * TYPED_AHEAD_MAX)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(pl011.deliver(b"y")))
    thread.start()
    time.sleep(0.05)
    assert results == []
    pl011.read(Uart.DR, 4)
    thread.join(5)
    assert results == [True]
    thread = threading.Thread(target=lambda: results.append(pl011.deliver(b"z")))
    thread.start()
    pl011.stop()
    thread.join(5)
    assert results == [True, False]


def test_uart_full_fifo_of_a_slow_reader(uart: tuple[Pl011, Lines], pipe: tuple[int, Output]) -> None:
    pl011, _ = uart
    pipe[1].write(b"." * (BACKLOG_MAX + (1 << 16)))
    assert pl011.read(Uart.FR, 4) & Flag.TXFF
    pl011.write(Uart.IMSC, 4, Interrupt.TX)
    total = 0
    while total < BACKLOG_MAX + (1 << 16):
        total += len(os.read(pipe[0], 1 << 16))
    assert settles(lambda: pl011.read(Uart.FR, 4) & Flag.TXFE)
    assert settles(lambda: pl011.read(Uart.MIS, 4) == Interrupt.TX)


@given(st.lists(st.tuples(st.integers(0, 0xFFF), st.one_of(st.none(), st.integers(0, 2**32 - 1))), max_size=60))
def test_uart_survives_any_access(accesses: list[tuple[int, int | None]]) -> None:
    output = Output(os.open(os.devnull, os.O_WRONLY), "null")
    pl011 = Pl011(output, LevelLine(lambda spi, level: None, 1))
    for offset, value in accesses:
        if value is None:
            assert 0 <= pl011.read(offset, 4) < 2**32
        else:
            pl011.write(offset, 4, value)
    output.close()
    os.close(output.fd)


def test_rtc_tells_the_time_and_keeps_what_was_set() -> None:
    lines = Lines()
    rtc = Pl031(LevelLine(lines.set, 2))
    assert abs(rtc.read(Rtc.DR, 4) - time.time()) < 2
    rtc.write(Rtc.LR, 4, 1000)
    assert rtc.read(Rtc.DR, 4) in (1000, 1001)
    assert [rtc.read(Rtc.PERIPH_ID0 + 4 * n, 4) for n in range(2)] == [0x31, 0x10]
    rtc.write(Rtc.IMSC, 4, 1)
    rtc.write(Rtc.MR, 4, 1001)
    assert settles(lambda: lines[-1] == (2, 1))
    assert rtc.read(Rtc.MIS, 4) == 1
    rtc.write(Rtc.ICR, 4, 1)
    assert lines[-1] == (2, 0)
    rtc.stop()


class Cell:
    def __init__(self) -> None:
        self.accesses: list[tuple[object, ...]] = []

    def read(self, offset: int, size: int) -> int:
        self.accesses.append((offset, size))
        return 0x1122_3344_5566_7788

    def write(self, offset: int, size: int, value: int) -> None:
        self.accesses.append((offset, size, value))


def test_bus_finds_windows() -> None:
    bus, cell = Bus(print), Cell()
    bus.attach("cell", 0xA00_0200, 0x400, cell)
    for address in (0xA00_0200, 0xA00_03FF, 0xA00_05FF):
        base, read, write = bus.windows[address >> GRANULE_BITS]
        read(address - base, 2)
        write(address - base, 4, 5)
    assert cell.accesses == [(0, 2), (0, 4, 5), (0x1FF, 2), (0x1FF, 4, 5), (0x3FF, 2), (0x3FF, 4, 5)]
    assert 0xA00_0600 >> GRANULE_BITS not in bus.windows


def test_bus_refuses_overlaps() -> None:
    bus = Bus(print)
    bus.attach("first", 0x1000, 0x1000, Cell())
    with pytest.raises(Overlap, match="second at 0x1e00 overlaps first at 0x1000"):
        bus.attach("second", 0x1E00, 0x400, Cell())
    with pytest.raises(ValueError, match="0x200-byte steps"):
        bus.attach("odd", 0x2001, 0x200, Cell())
    bus.attach("third", 0x2000, 0x200, Cell())


def test_bus_finds_large_windows_last() -> None:
    lines: list[str] = []
    bus = Bus(lines.append)
    large = Cell()
    bus.attach("large", 0, 0x400_0000, large)
    bus.attach("small", 0x1000, 0x200, Cell())
    assert set(bus.windows) == {0x1000 >> GRANULE_BITS}
    bus.unmatched(0x3FF_FFFC, 4, None)
    bus.unmatched(0x123, 1, 0xFF)
    assert large.accesses == [(0x3FF_FFFC, 4), (0x123, 1, 0xFF)] and lines == []
    assert bus.unmatched(0x400_0000, 4, None) == 0 and len(lines) == 1
    with pytest.raises(Overlap, match="other at 0x3f00000 overlaps what is at 0x0"):
        bus.attach("other", 0x3F0_0000, 0x400_0000, Cell())


def test_bus_reports_a_hole_once() -> None:
    lines: list[str] = []
    bus = Bus(lines.append)
    for address in (0x5000, 0x5FF8):
        assert bus.unmatched(address, 1, None) == 0
    bus.unmatched(0x6004, 4, 1)
    assert lines == [
        "the guest reads 0x5000 (1 bytes), where no device is",
        "the guest writes 0x1 to 0x6004 (4 bytes), where no device is",
    ]


def test_output_without_reader_is_lost_not_stuck() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    output = Output(writer, "broken")
    output.write(b"x" * 100)
    assert output.close(5) and output.lost
    os.close(writer)


def test_input_ends_with_its_stream_and_on_demand() -> None:
    reader, writer = os.pipe()
    got: list[bytes] = []

    def deliver(data: bytes) -> bool:
        got.append(data)
        return True

    typed = Input(reader, "test", deliver)
    os.write(writer, b"abc")
    assert settles(lambda: got == [b"abc"])
    typed.stop()
    os.write(writer, b"def")
    assert os.read(reader, 10) == b"def" and got == [b"abc"]
    os.close(reader)
    os.close(writer)


def test_msi_frame() -> None:
    """Only its own interrupts, whatever a guest writes."""
    raised: list[tuple[int, int]] = []
    frame = MsiFrame(lambda spi, level: raised.append((spi, level)), 3, 12)
    assert frame.read(0x008, 4) == 35 << 16 | 12 and frame.read(0xFCC, 4) & 0xFFF == 0x43B
    assert frame.read(0x040, 4) == frame.read(0xFFC, 4) == 0
    for value in (0, 34, 35, 46, 47, 1023, 0xFFFF_FFFF, 1 << 10 | 35):
        frame.write(0x040, 4, value)
    frame.write(0x044, 4, 36)
    assert raised == [(3, 1), (14, 1), (3, 1)]
