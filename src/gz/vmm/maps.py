# SPDX-License-Identifier: Apache-2.0
"""Machine maps: where a guest finds its RAM and devices."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from gz.abi.devices import REDISTRIBUTOR_SIZE

PVMFW = 0x7FC0_0000
PVMFW_SIZE = 0x40_0000


RTC_SIZE = 0x1000
VIRTIO_SIZE = 0x200
"""Bytes of a virtio-mmio window."""
VIRTIO_COUNT = 16
"""Of QEMU's 32: from SPI 32 on, clients of gzvm disagree about numbers (IRQ_LINE)."""
MSI_SIZE = 0x1000
MSI_COUNT = 12
"""What the other devices leave of the first 32."""


class Uart(Enum):
    PL011 = "pl011"
    UART_8250 = "uart"


@dataclass(frozen=True)
class Map:
    """Guest-physical addresses and sizes in bytes; `*_spi` are SPI indices (INTID - 32)."""

    name: str
    ram: int
    flash: int
    """Where firmware starts, in a bank of `flash_size`."""
    flash_size: int
    gicd: int
    redistributors: int
    """The first redistributor's frames, or with `redistributors_end` where the last one's end."""
    redistributors_end: bool
    uart_kind: Uart
    uart: int
    uart_size: int
    uart_spi: int
    rtc: int
    rtc_spi: int
    virtio: int
    """The first virtio-mmio window; number n is n times VIRTIO_SIZE behind it, its SPI `virtio_spi` + n."""
    virtio_spi: int
    msi: int
    """The GICv2m frame, with MSI_COUNT interrupts from `msi_spi` on."""
    msi_spi: int
    variables: int | None = None
    """The bank behind that of the firmware, of the same size, where firmware stores what it has to remember."""
    fw_cfg: int | None = None

    def pvmfw(self, memory: int) -> int:
        """Where firmware of a protected VM lies, in PVMFW_SIZE bytes: where Android's is linked to if RAM begins behind
        that, else behind RAM."""
        return PVMFW if self.ram == PVMFW + PVMFW_SIZE else self.ram + memory

    def gicr(self, cpus: int) -> int:
        """The redistributor of vCPU 0; those of the others follow."""
        return self.redistributors - cpus * REDISTRIBUTOR_SIZE if self.redistributors_end else self.redistributors

    @property
    def uart_path(self) -> str:
        """Of the UART's node in the tree."""
        return f"/{self.uart_kind.value}@{self.uart:x}"


#       0x0000_0000  flash              0x0900_0000  PL011          0x0a00_0000  virtio-mmio windows
#       0x0800_0000  distributor        0x0901_0000  PL031          0x4000_0000  RAM
#       0x0802_0000  GICv2m frame       0x080a_0000  redistributors     0x0902_0000  fw_cfg
VIRT = Map(
    name="virt",
    ram=0x4000_0000,
    flash=0,
    flash_size=0x0400_0000,
    gicd=0x0800_0000,
    redistributors=0x080A_0000,
    redistributors_end=False,
    uart_kind=Uart.PL011,
    uart=0x0900_0000,
    uart_size=0x1000,
    uart_spi=1,
    rtc=0x0901_0000,
    rtc_spi=2,
    virtio=0x0A00_0000,
    virtio_spi=16,
    msi=0x0802_0000,
    msi_spi=3,
    variables=0x0400_0000,
    fw_cfg=0x0902_0000,
)
"""QEMU's `virt` machine (hw/arm/virt.c): what distributions, U-Boot and EDK2 know."""

#       0x0100_0000  8250 UART          0x0300_0000  virtio-mmio windows    (redistributors below)
#       0x0101_0000  RTC                0x3fff_0000  distributor            0x8000_0000  RAM
#       0x0102_0000  GICv2m frame       0x0200_0000  flash
KVMTOOL = Map(
    name="kvmtool",
    ram=0x8000_0000,
    flash=0x0200_0000,
    flash_size=0x0100_0000,
    gicd=0x3FFF_0000,
    redistributors=0x3FFF_0000,
    redistributors_end=True,
    uart_kind=Uart.UART_8250,
    uart=0x0100_0000,
    uart_size=8,
    uart_spi=0,
    rtc=0x0101_0000,
    rtc_spi=1,
    virtio=0x0300_0000,
    virtio_spi=4,
    msi=0x0102_0000,
    msi_spi=20,
)
"""kvmtool's (arm-common/kvm-arch.h). Its RTC is a PL031 here: the PC's clock has no driver in arm64 kernels."""

#       0x0000_03f8  8250 UART          0x3fff_0000  distributor            0x7fc0_0000  protected VM firmware
#       0x0000_2000  RTC                (redistributors below)              0x8000_0000  RAM
#       0x0001_0000  GICv2m frame       0x0200_0000  virtio-mmio windows
CROSVM = replace(
    KVMTOOL,
    name="crosvm",
    flash=0x7FC0_0000,
    flash_size=0x0040_0000,
    uart=0x3F8,
    rtc=0x2000,
    virtio=0x0200_0000,
    msi=0x0001_0000,
)
"""crosvm's for arm64, with RAM and GIC where kvmtool has them. Its devices are virtio-mmio windows in the low MMIO
area; there is no PCI."""

MAPS = {machine.name: machine for machine in (VIRT, KVMTOOL, CROSVM)}
