# SPDX-License-Identifier: Apache-2.0
"""The 16550A as Linux's driver probes and uses it."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator

import pytest

from gz.vmm.bus import GRANULE_BITS, Bus
from gz.vmm.devices.serial import TYPED_AHEAD_MAX
from gz.vmm.devices.uart8250 import Reg, Uart8250
from gz.vmm.irq import LevelLine
from gz.vmm.streams import Output

READY, EMPTY, IDLE = 1, 0x20, 0x40


class Bench:
    def __init__(self) -> None:
        self.reader, writer = os.pipe()
        self.output = Output(writer, "console")
        self.levels: list[int] = []
        self.uart = Uart8250(self.output, LevelLine(lambda spi, level: self.levels.append(level), 0))

    def close(self) -> None:
        self.uart.stop()
        self.output.close(5)
        os.close(self.output.fd)
        os.close(self.reader)


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_it_sends_and_interrupts(bench: Bench) -> None:
    uart = bench.uart
    assert uart.read(Reg.LSR, 1) == EMPTY | IDLE and uart.read(Reg.IIR, 1) == 1 and bench.levels == [0]
    uart.write(Reg.IER, 1, 2)  # enabling it while the transmitter is empty interrupts
    assert bench.levels == [0, 1]
    assert uart.read(Reg.IIR, 1) == 2 and bench.levels == [0, 1, 0]
    assert uart.read(Reg.IIR, 1) == 1
    uart.write(Reg.DATA, 1, ord("x"))
    assert os.read(bench.reader, 10) == b"x" and bench.levels[-1] == 1
    uart.write(Reg.IER, 1, 0)
    assert bench.levels[-1] == 0 and uart.read(Reg.IIR, 1) == 1


def test_it_receives(bench: Bench) -> None:
    uart = bench.uart
    uart.write(Reg.IER, 1, 1)
    assert uart.deliver(b"ab") and bench.levels == [0, 1]
    assert uart.read(Reg.IIR, 1) == 4 and uart.read(Reg.LSR, 1) & READY
    assert (uart.read(Reg.DATA, 1), uart.read(Reg.DATA, 1)) == (ord("a"), ord("b"))
    assert bench.levels == [0, 1, 0] and not uart.read(Reg.LSR, 1) & READY and uart.read(Reg.DATA, 1) == 0
    uart.deliver(b"lost")
    uart.write(Reg.IIR, 1, 3)  # FCR: FIFOs on, receiver cleared
    assert not uart.read(Reg.LSR, 1) & READY and uart.read(Reg.IIR, 1) == 0xC1


def test_the_divisor_and_the_scratch_register_are_kept(bench: Bench) -> None:
    uart = bench.uart
    uart.write(Reg.LCR, 1, 0x83)
    uart.write(Reg.DATA, 1, 0x34)
    uart.write(Reg.IER, 1, 0x12)
    assert (uart.read(Reg.DATA, 1), uart.read(Reg.IER, 1)) == (0x34, 0x12)
    uart.write(Reg.LCR, 1, 3)
    assert (uart.read(Reg.DATA, 1), uart.read(Reg.IER, 1), uart.read(Reg.LCR, 1)) == (0, 0, 3)
    uart.write(Reg.SCR, 1, 0x5A)
    assert uart.read(Reg.SCR, 1) == 0x5A


def test_loopback(bench: Bench) -> None:
    """What Linux's autoconfig looks for: MCR 0x1a shows as DCD and CTS."""
    uart = bench.uart
    assert uart.read(Reg.MSR, 1) == 0xB0
    uart.write(Reg.MCR, 1, 0x1A)
    assert uart.read(Reg.MSR, 1) & 0xF0 == 0x90
    uart.write(Reg.DATA, 1, 7)
    assert uart.read(Reg.DATA, 1) == 7


def test_who_types_too_fast_waits(bench: Bench) -> None:
    uart = bench.uart
    assert uart.deliver(b"x" * TYPED_AHEAD_MAX)
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(uart.deliver(b"y")))
    thread.start()
    thread.join(0.05)
    assert thread.is_alive()
    uart.read(Reg.DATA, 1)
    thread.join(5)
    assert results == [True]


def test_its_window_may_be_small(bench: Bench) -> None:
    """crosvm has it at 0x3f8: around it nothing answers."""
    bus = Bus(print)
    bus.attach("uart", 0x3F8, 8, bench.uart)
    base, read, write = bus.windows[0x3FF >> GRANULE_BITS]
    assert base == 0x3F8 and list(bus.windows) == [1]
    write(0x3FF - base, 1, 0x77)
    assert read(0x3FF - base, 1) == 0x77
    for address in (0x200, 0x3F7):
        write(address - base, 1, 0x11)
        assert read(address - base, 1) == 0
