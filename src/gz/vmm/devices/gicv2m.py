# SPDX-License-Identifier: Apache-2.0
"""GICv2m frame (Server Base System Architecture, DEN0029, appendix on MSIs): a store of an INTID raises that SPI."""

from __future__ import annotations

from gz.arm64.gic import ARM_IMPLEMENTER, GIC_IIDR, MSI_TYPER, PRIVATE_INTERRUPTS, Gicv2m
from gz.vmm.irq import IrqLine

_INTID_MASK = 0x3FF
_TYPER, _SETSPI, _IIDR = (Gicv2m.offset(name) for name in ("MSI_TYPER", "MSI_SETSPI_NS", "MSI_IIDR"))


class MsiFrame:
    """`count` edges from the SPI index `first` on."""

    def __init__(self, irq_line: IrqLine, first: int, count: int) -> None:
        self._irq_line = irq_line
        self._first = PRIVATE_INTERRUPTS + first
        self._count = count

    def read(self, offset: int, size: int) -> int:
        if offset == _TYPER:
            return int(MSI_TYPER(BASE=self._first, COUNT=self._count))
        return int(GIC_IIDR(Implementer=ARM_IMPLEMENTER)) if offset == _IIDR else 0

    def write(self, offset: int, size: int, value: int) -> None:
        """Other interrupts than the frame's are dropped, whoever asks for them."""
        intid = value & _INTID_MASK
        if offset == _SETSPI and self._first <= intid < self._first + self._count:
            self._irq_line(intid - PRIVATE_INTERRUPTS, 1)
