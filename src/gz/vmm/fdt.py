# SPDX-License-Identifier: Apache-2.0
"""The guest's device tree: a writer, and the nodes every machine has. Devices write their own with it."""

from __future__ import annotations

import os
import struct
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

import libfdt

from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE
from gz.vmm.devices import flash, fw_cfg, uart8250
from gz.vmm.maps import MSI_SIZE, RTC_SIZE, VIRTIO_SIZE, Map, Uart

FDT_MAX = 0x20_0000
"""Greatest size of a tree for arm64 Linux (booting.rst)."""
SPI, PPI = 0, 1
EDGE_RISING, LEVEL_HIGH, LEVEL_LOW = 1, 4, 8
"""Interrupt specifiers (arm,gic-v3 binding)."""
TIMER_PPIS = (13, 14, 11, 10)
"""Secure physical, physical, virtual, hypervisor timer: PPI n is INTID 16 + n."""
PMU_PPI = 7
"""The performance monitors' overflow; a guest whose CPU shows none (ID_AA64DFR0_EL1.PMUVer) ignores the node."""
UART_CLOCK_HZ = 24_000_000


class Handle(IntEnum):
    GIC = 1
    CLOCK = 2
    MSI = 3


class Tree:
    """Writes nodes and properties in order; `bytes()` gives the finished blob."""

    def __init__(self) -> None:
        self._writer = libfdt.FdtSw()
        self._writer.finish_reservemap()

    @contextmanager
    def node(self, name: str) -> Generator[None]:
        with self._writer.add_node(name):
            yield

    def cells(self, name: str, *values: int) -> None:
        """32-bit big-endian numbers."""
        self._writer.property(name, struct.pack(f">{len(values)}I", *values))

    def reg(self, *ranges: tuple[int, int]) -> None:
        """(address, size) pairs of two cells each."""
        self._writer.property("reg", b"".join(struct.pack(">QQ", *pair) for pair in ranges))

    def text(self, name: str, *values: str) -> None:
        self._writer.property(name, b"".join(value.encode() + b"\0" for value in values))

    def data(self, name: str, value: bytes) -> None:
        """Raw bytes; none for a property that only has to be there."""
        self._writer.property(name, value)

    def interrupt(self, kind: int, number: int, flags: int) -> None:
        self.cells("interrupts", kind, number, flags)

    def __bytes__(self) -> bytes:
        tree = self._writer.as_fdt()
        tree.pack()
        return bytes(tree.as_bytearray())[: tree.totalsize()]


@dataclass(frozen=True)
class Boot:
    """What the boot program hands over: command line and where the initrd lies (start, end).

    Without `seeds` the tree of two equal plans is the same, so that firmware can know it."""

    params: str
    initrd: tuple[int, int] | None = None
    seeds: bool = True


def write_machine(tree: Tree, machine: Map, cpu_count: int, memory_size: int, boot: Boot) -> None:
    """The nodes of `machine` that are not devices; the root node has to be open."""
    tree.text("compatible", "linux,dummy-virt")
    tree.text("model", f"gz,{machine.name}")
    tree.cells("#address-cells", 2)
    tree.cells("#size-cells", 2)
    tree.cells("interrupt-parent", Handle.GIC)
    _write_chosen(tree, machine, boot)
    with tree.node(f"memory@{machine.ram:x}"):
        tree.text("device_type", "memory")
        tree.reg((machine.ram, memory_size))
    _write_cpus(tree, cpu_count)
    with tree.node("psci"):
        tree.text("compatible", "arm,psci-1.0", "arm,psci-0.2")
        tree.text("method", "hvc")
    with tree.node("timer"):
        tree.text("compatible", "arm,armv8-timer")
        tree.cells("interrupts", *(cell for ppi in TIMER_PPIS for cell in (PPI, ppi, LEVEL_LOW)))
        tree.data("always-on", b"")
    with tree.node("pmu"):
        tree.text("compatible", "arm,armv8-pmuv3")
        tree.interrupt(PPI, PMU_PPI, LEVEL_HIGH)
    with tree.node(f"intc@{machine.gicd:x}"):
        tree.text("compatible", "arm,gic-v3")
        tree.cells("#interrupt-cells", 3)
        tree.data("interrupt-controller", b"")
        tree.cells("#address-cells", 2)
        tree.cells("#size-cells", 2)
        tree.data("ranges", b"")
        tree.reg((machine.gicd, DISTRIBUTOR_SIZE), (machine.gicr(cpu_count), REDISTRIBUTOR_SIZE * cpu_count))
        tree.cells("phandle", Handle.GIC)
        with tree.node(f"v2m@{machine.msi:x}"):
            tree.text("compatible", "arm,gic-v2m-frame")
            tree.data("msi-controller", b"")
            tree.reg((machine.msi, MSI_SIZE))
            tree.cells("phandle", Handle.MSI)
    with tree.node("apb-pclk"):
        tree.text("compatible", "fixed-clock")
        tree.cells("#clock-cells", 0)
        tree.cells("clock-frequency", UART_CLOCK_HZ)
        tree.text("clock-output-names", "clk24mhz")
        tree.cells("phandle", Handle.CLOCK)


def write_uart(tree: Tree, machine: Map) -> None:
    with tree.node(machine.uart_path.removeprefix("/")):
        tree.reg((machine.uart, machine.uart_size))
        tree.interrupt(SPI, machine.uart_spi, LEVEL_HIGH)
        match machine.uart_kind:
            case Uart.PL011:
                tree.text("compatible", "arm,pl011", "arm,primecell")
                tree.cells("clocks", Handle.CLOCK, Handle.CLOCK)
                tree.text("clock-names", "uartclk", "apb_pclk")
            case Uart.UART_8250:
                tree.text("compatible", "ns16550a")
                tree.cells("clock-frequency", uart8250.CLOCK_HZ)


def write_rtc(tree: Tree, machine: Map) -> None:
    with tree.node(f"pl031@{machine.rtc:x}"):
        tree.text("compatible", "arm,pl031", "arm,primecell")
        tree.reg((machine.rtc, RTC_SIZE))
        tree.interrupt(SPI, machine.rtc_spi, LEVEL_HIGH)
        tree.cells("clocks", Handle.CLOCK)
        tree.text("clock-names", "apb_pclk")


def write_flash(tree: Tree, machine: Map) -> None:
    if machine.variables is not None:
        with tree.node(f"flash@{machine.flash:x}"):
            tree.text("compatible", "cfi-flash")
            tree.reg((machine.flash, machine.flash_size), (machine.variables, machine.flash_size))
            tree.cells("bank-width", flash.BANK_WIDTH)


def write_fw_cfg(tree: Tree, machine: Map) -> None:
    if machine.fw_cfg is not None:
        with tree.node(f"fw-cfg@{machine.fw_cfg:x}"):
            tree.text("compatible", "qemu,fw-cfg-mmio")
            tree.reg((machine.fw_cfg, fw_cfg.SIZE))
            tree.data("dma-coherent", b"")


def write_virtio(tree: Tree, machine: Map, number: int) -> None:
    base = machine.virtio + number * VIRTIO_SIZE
    with tree.node(f"virtio_mmio@{base:x}"):
        tree.text("compatible", "virtio,mmio")
        tree.reg((base, VIRTIO_SIZE))
        tree.interrupt(SPI, machine.virtio_spi + number, EDGE_RISING)
        tree.data("dma-coherent", b"")


def mpidr(cpu: int) -> int:
    """The affinity of vCPU number `cpu`, as the core has it: sixteen to a cluster (SGI target lists)."""
    return cpu // 16 << 8 | cpu % 16


def _write_chosen(tree: Tree, machine: Map, boot: Boot) -> None:
    with tree.node("chosen"):
        tree.text("bootargs", boot.params)
        tree.text("stdout-path", machine.uart_path)
        if boot.seeds:
            tree.data("rng-seed", os.urandom(64))
            tree.data("kaslr-seed", os.urandom(8))
        if boot.initrd is not None:
            start, end = boot.initrd
            tree.data("linux,initrd-start", struct.pack(">Q", start))
            tree.data("linux,initrd-end", struct.pack(">Q", end))


def _write_cpus(tree: Tree, cpu_count: int) -> None:
    with tree.node("cpus"):
        tree.cells("#address-cells", 1)
        tree.cells("#size-cells", 0)
        for cpu in range(cpu_count):
            with tree.node(f"cpu@{mpidr(cpu):x}"):
                tree.text("device_type", "cpu")
                tree.text("compatible", "arm,armv8")
                tree.cells("reg", mpidr(cpu))
                tree.text("enable-method", "psci")
