# SPDX-License-Identifier: Apache-2.0
"""A VM through /dev/kvm: the same interface on any arm64 Linux whose kernel is the hypervisor."""

from __future__ import annotations

import ctypes
import errno
import threading
from collections.abc import Callable
from typing import Any

from gz.abi.calls import VCPUS_MAX
from gz.abi.device import (
    IoctlIoeventfd,
    IoctlIrqfd,
    IoctlIrqLine,
    IoctlMemoryRegion,
    IoeventfdFlag,
    IrqNumber,
    IrqType,
)
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE, DeviceType
from gz.abi.kvm import (
    API_VERSION,
    VGIC_INIT,
    VGIC_IRQS_MAX,
    VGIC_V3,
    KvmCapability,
    KvmCreateDevice,
    KvmDeviceAttribute,
    KvmEnableCap,
    KvmVcpuFeature,
    KvmVcpuInit,
    VcpuGroup,
    VgicAddress,
    VgicGroup,
)
from gz.abi.kvm import KvmRequest as Request
from gz.abi.memory import BLOCK_SIZE, SLOTS_MAX, Access, Purpose
from gz.arm64.stolen_time import RECORD_SIZE, WINDOW_SIZE
from gz.driver.interface import DriverError
from gz.driver.kernel import Kernel, KvmError, Linux, filled
from gz.driver.kvm_vcpu import KvmVcpu
from gz.driver.pages import AnonymousBlock
from gz.driver.vcpu import install_kick

ADDRESS_BITS = 40
"""Of guest-physical addresses, if the CPU has so many: what the core gives guests too."""
FIRST_SPI = 32
READONLY = 1 << 1
"""Of KVM_SET_USER_MEMORY_REGION's flags: stores are MMIO exits."""
RECORDS = SLOTS_MAX
"""The slot of the vCPUs' records of stolen time, behind those for memory."""
WINDOWS = {
    DeviceType.VGICV3_DISTRIBUTOR: (VgicAddress.DISTRIBUTOR, DISTRIBUTOR_SIZE),
    DeviceType.VGICV3_REDISTRIBUTOR: (VgicAddress.REDISTRIBUTORS, REDISTRIBUTOR_SIZE),
}


class KvmVm:
    """Made on the open file `system` of /dev/kvm, which is this object's from then on."""

    def __init__(self, kernel: Kernel, system: int) -> None:
        self.kernel = kernel
        self._system = system
        self._files = [system]
        self._vgic: int | None = None
        self._blocks: list[AnonymousBlock] = []
        self._slots: dict[int, tuple[bytearray, Access]] = {}
        self._vcpus: dict[int, KvmVcpu] = {}
        self._ready = False
        self._setup = threading.Lock()
        try:
            self._check()
            self._bits = min(self.request(Request.CHECK_EXTENSION, KvmCapability.ARM_VM_IPA_SIZE), ADDRESS_BITS)
            self._vm = self.request(Request.CREATE_VM, self._bits)
            self._files.append(self._vm)
            capability = filled(KvmEnableCap, cap=KvmCapability.ARM_NISV_TO_USER)
            self.request(Request.ENABLE_CAP, capability, self._vm)
            self._page_size = self.request(Request.GET_VCPU_MMAP_SIZE)
        except BaseException:
            self.close()
            raise

    def request(self, request: Request, argument: int | bytearray = 0, file: int | None = None) -> int:
        """An ioctl on a file, /dev/kvm if none is given; an argument in memory is updated. KvmError."""
        try:
            return self.kernel.ioctl(self._system if file is None else file, request, argument)
        except OSError as error:
            raise KvmError(request, error.errno or errno.EIO) from None

    def add_memory(self, slot: int, gpa: int, size: int, purpose: Purpose) -> memoryview:
        if not 0 <= slot < SLOTS_MAX or slot in self._slots:
            raise ValueError(f"memory slot {slot} does not exist or is taken")
        if gpa % BLOCK_SIZE or size % BLOCK_SIZE or size <= 0:
            raise ValueError(f"{size:#x} bytes at {gpa:#x} are not made of 2 MiB blocks")
        return self._add_slot(slot, gpa, size)

    def _add_slot(self, slot: int, gpa: int, size: int) -> memoryview:
        block = AnonymousBlock(size)
        self._blocks.append(block)
        region = filled(IoctlMemoryRegion, slot=slot, gpa=gpa, memory_size=size, user_address=block.address)
        self.request(Request.SET_USER_MEMORY_REGION, region, self._vm)
        self._slots[slot] = region, Access.READ_WRITE
        return block.view

    def set_access(self, slot: int, access: Access) -> bool:
        """The kernel changes no slot but by its end and another one in its place."""
        region, previous = self._slots[slot]
        view = IoctlMemoryRegion.view(region)
        size = view.memory_size
        if previous != Access.NONE:
            view.memory_size = 0
            self.request(Request.SET_USER_MEMORY_REGION, region, self._vm)
            view.memory_size = size
        if access != Access.NONE:
            view.flags = READONLY if access == Access.READ_ONLY else 0
            self.request(Request.SET_USER_MEMORY_REGION, region, self._vm)
        self._slots[slot] = region, access
        return True

    def create_device(self, kind: DeviceType, base: int, size: int) -> None:
        which, expected = WINDOWS[kind]
        if size != expected:
            raise ValueError(f"the window of a {kind.name} has {expected:#x} bytes, not {size:#x}")
        if self._vgic is None:
            self._vgic = self._create_vgic()
        self._set_vgic(VgicGroup.ADDRESS, which, base.to_bytes(8, "little"))

    def create_vcpu(self, index: int) -> KvmVcpu:
        if not 0 <= index < VCPUS_MAX or index in self._vcpus:
            raise ValueError(f"vCPU {index} does not exist or is taken")
        file = self.request(Request.CREATE_VCPU, index, self._vm)
        self._files.append(file)
        init = bytearray(KvmVcpuInit.size)
        self.request(Request.ARM_PREFERRED_TARGET, init, self._vm)
        features = KvmVcpuFeature.PSCI_0_2 | (KvmVcpuFeature.POWER_OFF if index else 0)
        KvmVcpuInit.view(init).features[0] = int(features)
        self.request(Request.ARM_VCPU_INIT, init, file)
        self._add_record(index, file)
        vcpu = self._vcpus[index] = KvmVcpu(self, index, file, self._page_size)
        return vcpu

    def enable_capability(self, capability: int, *arguments: int) -> int:
        raise DriverError(f"KVM has nothing like the capability {capability:#x} of gzvm")

    def set_dtb(self, gpa: int, size: int) -> None:
        """Nothing: the kernel has no use for the tree."""

    def irq_line(self, spi: int, level: int) -> None:
        self.finish()
        line = IrqNumber(TYPE=IrqType.SPI, NUMBER=FIRST_SPI + spi)
        self.request(Request.IRQ_LINE, filled(IoctlIrqLine, irq=line, level=level), self._vm)

    def irqfd(self, fd: int, spi: int) -> None:
        self.finish()
        self.request(Request.IRQFD, filled(IoctlIrqfd, fd=fd, gsi=spi), self._vm)

    def ioeventfd(self, address: int, size: int, fd: int, data: int | None = None) -> None:
        if size not in (0, 1, 2, 4, 8):
            raise ValueError(f"an ioeventfd cannot watch writes of {size} bytes")
        event = filled(IoctlIoeventfd, address=address, length=size, fd=fd)
        if data is not None:
            view = IoctlIoeventfd.view(event)
            view.datamatch, view.flags = data, int(IoeventfdFlag.DATAMATCH)
        try:
            self.request(Request.IOEVENTFD, event, self._vm)
        except KvmError as error:
            if error.errno == errno.EEXIST:
                raise ValueError(f"an ioeventfd at {address:#x} exists already") from None
            raise

    def finish(self) -> None:
        """Makes the interrupt controller ready, once: all vCPUs are there, and nothing has run yet."""
        if not self._ready:
            with self._setup:
                if not self._ready and self._vgic is not None:
                    self._set_vgic(VgicGroup.CONTROL, VGIC_INIT)
                self._ready = True

    def close(self) -> None:
        """Who still has bytes that `add_memory` gave keeps them mapped in this process."""
        for vcpu in self._vcpus.values():
            vcpu.close()
        self._vcpus.clear()
        while self._files:
            self.kernel.close(self._files.pop())
        for block in self._blocks:
            block.close()
        self._blocks.clear()

    def _check(self) -> None:
        version = self.request(Request.GET_API_VERSION)
        if version != API_VERSION:
            raise DriverError(f"/dev/kvm speaks version {version} of its interface, not {API_VERSION}")
        for capability in (KvmCapability.IMMEDIATE_EXIT, KvmCapability.ARM_NISV_TO_USER):
            if not self.request(Request.CHECK_EXTENSION, capability):
                raise DriverError(f"this kernel's KVM is too old: it has no {capability.name}")

    def _add_record(self, index: int, vcpu: int) -> None:
        """Where the guest reads its stolen time: where the core has it (gz.core.stolen_time)."""
        if not self.request(Request.CHECK_EXTENSION, KvmCapability.STEAL_TIME):
            return
        window = (1 << (self._bits or ADDRESS_BITS)) - WINDOW_SIZE
        if RECORDS not in self._slots:
            self._add_slot(RECORDS, window, WINDOW_SIZE)
        self._set_attribute(vcpu, VcpuGroup.PVTIME, 0, (window + index * RECORD_SIZE).to_bytes(8, "little"))

    def _create_vgic(self) -> int:
        device = filled(KvmCreateDevice, type=VGIC_V3)
        try:
            self.request(Request.CREATE_DEVICE, device, self._vm)
        except KvmError as error:
            if error.errno == errno.ENODEV:
                raise DriverError("guests need a GICv3, which this machine does not have") from None
            raise
        file = KvmCreateDevice.view(device).fd
        self._files.append(file)
        self._vgic = file
        self._set_vgic(VgicGroup.IRQ_COUNT, 0, VGIC_IRQS_MAX.to_bytes(4, "little"))
        return file

    def _set_vgic(self, group: VgicGroup, attribute: int, value: bytes = b"") -> None:
        assert self._vgic is not None
        self._set_attribute(self._vgic, group, attribute, value)

    def _set_attribute(self, file: int, group: int, attribute: int, value: bytes) -> None:
        buffer = ctypes.create_string_buffer(value, len(value)) if value else None
        address = ctypes.addressof(buffer) if buffer else 0
        fields: dict[str, Any] = {"group": group, "attribute": attribute, "address": address}
        self.request(Request.SET_DEVICE_ATTR, filled(KvmDeviceAttribute, **fields), file)


def open_kvm(log: Callable[[str], object]) -> KvmVm:
    """A new, empty VM on this host. DriverError if there cannot be one."""
    install_kick()
    kernel = Linux()
    return KvmVm(kernel, kernel.open())
