# SPDX-License-Identifier: Apache-2.0
"""A guest from its parts to its end: one builder that reads as a table of contents."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from gz.abi import registers
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE, DeviceType
from gz.abi.memory import Purpose
from gz.driver.interface import Vcpu, Vm
from gz.vmm import fdt
from gz.vmm.bus import Bus
from gz.vmm.devices.fw_cfg import SIZE as FW_CFG_SIZE
from gz.vmm.devices.fw_cfg import FwCfg, Item, Key, number
from gz.vmm.devices.gicv2m import MsiFrame
from gz.vmm.devices.pl011 import Pl011
from gz.vmm.devices.pl031 import Pl031
from gz.vmm.devices.uart8250 import Uart8250
from gz.vmm.exits import End
from gz.vmm.firmware import Variables, add_flash, kernel_items
from gz.vmm.irq import EdgeLine, LevelLine
from gz.vmm.kernel import load_kernel
from gz.vmm.loader import Layout, LoadError, load_initrd, load_tree
from gz.vmm.maps import MSI_COUNT, MSI_SIZE, PVMFW_SIZE, RTC_SIZE, VIRT, VIRTIO_COUNT, VIRTIO_SIZE, Map, Uart
from gz.vmm.memory import GuestMemory
from gz.vmm.streams import Input, Output
from gz.vmm.terminal import Size
from gz.vmm.vcpu import VcpuThread
from gz.vmm.virtio.block import Block, Disk
from gz.vmm.virtio.console import Console, Port
from gz.vmm.virtio.device import VirtioDevice
from gz.vmm.virtio.mmio import MmioTransport, Reg
from gz.vmm.virtio.rng import Entropy

HVC0 = "hvc0"
UARTS: dict[Uart, type[Pl011 | Uart8250]] = {Uart.PL011: Pl011, Uart.UART_8250: Uart8250}


@dataclass
class Plan:
    """What the user wants: a kernel, or firmware, which may start the kernel. Memory in bytes; disks as (path,
    read-only)."""

    kernel: str | None = None
    firmware: str | None = None
    variables: str | None = None
    """The file of its flash bank for them."""
    initrd: str | None = None
    cpus: int = 1
    memory: int = 256 << 20
    params: str = ""
    disks: list[tuple[str, bool]] = field(default_factory=list[tuple[str, bool]])
    machine: Map = VIRT
    protected: bool = False
    """The guest's memory is its own: neither this process nor its host reads it once the guest has touched it."""
    watch: int = 0
    """A set of :class:`gz.abi.exits.Watch`: of these exceptions of the guest's a line is printed."""
    pvmfw: bool = False
    """Protected, and started by the firmware that the core has for that."""


@dataclass
class Streams:
    """The guest's consoles: UART and hvc0 share the output; the file descriptor `input` feeds the last of `named`."""

    output: Output
    input: int | None
    named: Sequence[str] = ()
    """By the guest's command line (console=…)."""
    size: Size | None = None

    @property
    def typed_at_hvc0(self) -> bool:
        return bool(self.named) and self.named[-1] == HVC0


def has_console(named: Sequence[str], ports: bool) -> bool:
    """Is there a virtio console?"""
    return ports or HVC0 in named


def describe(plan: Plan, initrd: tuple[int, int] | None, virtio_count: int) -> bytes:
    """The guest's device tree."""
    tree = fdt.Tree()
    boot = fdt.Boot(plan.params, initrd, seeds=not plan.pvmfw)
    with tree.node(""):
        fdt.write_machine(tree, plan.machine, plan.cpus, plan.memory, boot)
        fdt.write_uart(tree, plan.machine)
        fdt.write_rtc(tree, plan.machine)
        if plan.firmware is not None:
            fdt.write_flash(tree, plan.machine)
            fdt.write_fw_cfg(tree, plan.machine)
        for number in range(virtio_count):
            fdt.write_virtio(tree, plan.machine, number)
    return bytes(tree)


class Machine:
    """A guest that is ready to run. `close` undoes everything, whatever happened."""

    def __init__(
        self,
        vm: Vm,
        plan: Plan,
        console: Streams,
        ports: list[Port],
        log: Callable[[str], object],
        variables: Variables | None = None,
    ) -> None:
        """`variables`: with firmware."""
        self._log = log
        self._variables = variables
        self._plan = plan
        self._map = plan.machine
        self._vm = vm
        self._bus = Bus(log)
        self._virtio: list[VirtioDevice] = []
        self._threads: list[VcpuThread] = []
        self._over = threading.Event()
        self._end: End | None = None
        self._end_lock = threading.Lock()
        self._undo = ExitStack()
        try:
            self._build(console, ports)
        except BaseException:
            self.close()
            raise

    def run(self) -> End:
        """Starts the guest and waits for its end."""
        for thread in self._threads:
            thread.start()
        self._over.wait()
        assert self._end is not None
        return self._end

    def end(self, end: End) -> None:
        """The guest's life is over; the first who says so decides how. Callable from any thread."""
        with self._end_lock:
            if self._end is None:
                self._end = end
        self._over.set()

    def close(self) -> None:
        """Stops vCPUs and devices, in this order, and gives everything back to the host."""
        self._undo.close()

    def _build(self, console: Streams, ports: list[Port]) -> None:
        memory = self._add_memory()
        if self._plan.pvmfw:
            self._add_pvmfw()
        elif self._plan.protected:
            self._vm.enable_capability(Capability.PROTECTED_VM, ProtectedVm.PROTECT)
        if self._plan.watch:
            self._vm.enable_capability(Capability.WATCH_EXCEPTIONS, self._plan.watch)
        layout = self._load(memory)
        initrd = None
        if self._plan.initrd is not None and self._plan.firmware is None:
            initrd = load_initrd(memory, self._plan.initrd, layout)
        self._add_gic()
        # Before the devices: the core takes no interrupts for a VM without vCPUs.
        vcpus = [self._vm.create_vcpu(index) for index in range(self._plan.cpus)]
        self._add_uart(console)
        self._add_rtc()
        msis = MsiFrame(self._vm.irq_line, self._map.msi_spi, MSI_COUNT)
        self._bus.attach("gicv2m", self._map.msi, MSI_SIZE, msis)
        # Programs that take any virtio console for QEMU's test device (kvm-unit-tests) wait forever for an answer.
        if has_console(console.named, bool(ports)):
            port_0 = Port(HVC0, console.input if console.typed_at_hvc0 else None, console.output)
            self._add_virtio(Console(memory, [port_0, *ports], console.size))
        for path, read_only in self._plan.disks:
            self._add_virtio(Block(memory, Disk(path, read_only)))
        self._add_virtio(Entropy(memory))
        tree = describe(self._plan, initrd, len(self._virtio))
        load_tree(memory, tree, layout)
        self._vm.set_dtb(layout.tree, len(tree))
        self._start_at(vcpus, layout)

    def _add_memory(self) -> GuestMemory:
        base = self._map.ram
        view = self._vm.add_memory(0, base, self._plan.memory, Purpose.GUEST_MEMORY)
        memory = GuestMemory([(base, view)], private=self._plan.protected or self._plan.pvmfw)
        self._undo.callback(memory.release)
        return memory

    def _add_pvmfw(self) -> None:
        if self._vm.enable_capability(Capability.PROTECTED_VM, ProtectedVm.GET_FIRMWARE_SIZE) == 0:
            raise LoadError("the core has no firmware for protected VMs: gz run --pvmfw gives it some")
        base = self._map.pvmfw(self._plan.memory)
        self._vm.add_memory(2, base, PVMFW_SIZE, Purpose.PROTECTED_FIRMWARE)
        self._vm.enable_capability(Capability.PROTECTED_VM, ProtectedVm.SET_FIRMWARE, base)

    def _load(self, memory: GuestMemory) -> Layout:
        if self._plan.firmware is None:
            assert self._plan.kernel is not None, "the command line asks for one of them"
            return load_kernel(memory, self._plan.kernel)
        assert self._variables is not None
        add_flash(self._vm, self._bus, self._map, self._plan.firmware, self._variables)
        if self._map.fw_cfg is not None:
            items: dict[int, Item] = {Key.NB_CPUS: number(self._plan.cpus, 2), Key.MAX_CPUS: number(self._plan.cpus, 2)}
            if self._plan.kernel is not None:
                items |= kernel_items(self._plan.kernel, self._plan.initrd, self._plan.params, self._undo)
            self._bus.attach("fw_cfg", self._map.fw_cfg, FW_CFG_SIZE, FwCfg(memory, items, {}))
        elif self._plan.kernel is not None:
            raise LoadError(f"the machine {self._map.name} has nothing that tells firmware of a kernel")
        return Layout(self._map.flash, self._map.ram, self._map.ram)

    def _add_gic(self) -> None:
        gicr = self._map.gicr(self._plan.cpus)
        self._vm.create_device(DeviceType.VGICV3_DISTRIBUTOR, self._map.gicd, DISTRIBUTOR_SIZE)
        self._vm.create_device(DeviceType.VGICV3_REDISTRIBUTOR, gicr, REDISTRIBUTOR_SIZE)

    def _add_uart(self, console: Streams) -> None:
        kind = self._map.uart_kind
        uart = UARTS[kind](console.output, LevelLine(self._vm.irq_line, self._map.uart_spi))
        self._bus.attach(kind.value, self._map.uart, self._map.uart_size, uart)
        if console.input is not None and not console.typed_at_hvc0:
            typed = Input(console.input, kind.value, uart.deliver)
            self._undo.callback(typed.stop)
        self._undo.callback(uart.stop)

    def _add_rtc(self) -> None:
        rtc = Pl031(LevelLine(self._vm.irq_line, self._map.rtc_spi))
        self._bus.attach("pl031", self._map.rtc, RTC_SIZE, rtc)
        self._undo.callback(rtc.stop)

    def _add_virtio(self, device: VirtioDevice) -> None:
        number = len(self._virtio)
        if number >= VIRTIO_COUNT:
            raise ValueError(f"more than {VIRTIO_COUNT} virtio devices")
        base = self._map.virtio + number * VIRTIO_SIZE
        line = EdgeLine(self._vm.irq_line, self._map.virtio_spi + number)
        transport = MmioTransport(device, line, self._log)
        self._bus.attach(f"virtio {device.NAME}", base, VIRTIO_SIZE, transport)
        self._vm.ioeventfd(base + Reg.QUEUE_NOTIFY, 4, device.notify_fd)
        self._virtio.append(device)
        device.start()
        self._undo.callback(device.stop)

    def _start_at(self, vcpus: list[Vcpu], layout: Layout) -> None:
        """The first vCPU boots, the others wait for CPU_ON."""
        for vcpu in vcpus:
            vcpu.set_register(registers.PSTATE, registers.BOOT_PSTATE)
            if vcpu.index == 0:
                vcpu.set_register(registers.X0, layout.tree)
                if self._plan.pvmfw:  # it starts where it lies, and is told about the kernel
                    vcpu.set_register(registers.x(1), layout.entry)
                    vcpu.set_register(registers.x(2), layout.kernel_end - layout.entry)
                else:
                    vcpu.set_register(registers.PC, layout.entry)
            thread = VcpuThread(vcpu, self._bus, self.end, self._log)
            self._threads.append(thread)
            # Devices stop after the vCPUs, so that nothing the guest sent is lost.
            self._undo.callback(thread.stop)
