# SPDX-License-Identifier: Apache-2.0
"""Interrupt lines of devices, by SPI index (INTID - 32)."""

from __future__ import annotations

from collections.abc import Callable

IrqLine = Callable[[int, int], None]
"""(SPI index, level 0 or 1): the call that drives the line of the guest's GIC."""


class LevelLine:
    """A line that stays high as long as its device wants attention."""

    def __init__(self, irq_line: IrqLine, spi: int) -> None:
        self.spi = spi
        self._irq_line = irq_line
        self._level = 0
        # A line once seen low is kept pending by the core while it is high (gzvm: irqfd lines never go low).
        irq_line(spi, 0)

    def set(self, level: bool) -> None:
        if level != self._level:
            self._level = int(level)
            self._irq_line(self.spi, self._level)


class EdgeLine:
    """A line whose rising edge is the event."""

    def __init__(self, irq_line: IrqLine, spi: int) -> None:
        self.spi = spi
        self._irq_line = irq_line

    def pulse(self) -> None:
        self._irq_line(self.spi, 1)
