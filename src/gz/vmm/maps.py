# SPDX-License-Identifier: Apache-2.0
"""Machine maps: where a guest finds its RAM and devices."""

from __future__ import annotations

from dataclasses import dataclass

from gz.abi.devices import DISTRIBUTOR_SIZE


@dataclass(frozen=True)
class Map:
    """Guest-physical addresses and sizes in bytes; `*_spi` are SPI indices (INTID - 32)."""

    name: str
    compatible: str
    ram: int
    gicd: int
    gicd_size: int
    gicr: int
    uart: int
    uart_size: int
    uart_spi: int
    rtc: int
    rtc_size: int
    rtc_spi: int
    virtio: int
    """The first virtio-mmio window; number n is n strides behind it, its SPI `virtio_spi` + n."""
    virtio_stride: int
    virtio_count: int
    virtio_spi: int
    open_value: int
    """What a load from an address without a device gives."""


#       0x0800_0000  distributor        0x0900_0000  PL011          0x0a00_0000  virtio-mmio windows
#       0x080a_0000  redistributors     0x0901_0000  PL031          0x4000_0000  RAM
VIRT = Map(
    name="virt",
    compatible="linux,dummy-virt",
    ram=0x4000_0000,
    gicd=0x0800_0000,
    gicd_size=DISTRIBUTOR_SIZE,
    gicr=0x080A_0000,
    uart=0x0900_0000,
    uart_size=0x1000,
    uart_spi=1,
    rtc=0x0901_0000,
    rtc_size=0x1000,
    rtc_spi=2,
    virtio=0x0A00_0000,
    virtio_stride=0x200,
    virtio_count=16,  # of QEMU's 32: from SPI 32 on, clients of gzvm disagree about numbers (IRQ_LINE)
    virtio_spi=16,
    open_value=0,
)
"""QEMU's `virt` machine (hw/arm/virt.c): what distributions, U-Boot and EDK2 know."""
