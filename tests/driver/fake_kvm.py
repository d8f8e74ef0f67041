# SPDX-License-Identifier: Apache-2.0
"""The kernel's side of /dev/kvm: it takes ioctls in the order and with the values that Linux takes, only."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gz.abi.device import IoctlIoeventfd, IoctlIrqfd, IoctlIrqLine, IoctlMemoryRegion, IoctlOneReg
from gz.abi.kvm import (
    VGIC_V3,
    KvmCapability,
    KvmCreateDevice,
    KvmDeviceAttribute,
    KvmEnableCap,
    KvmRequest,
    KvmRun,
    KvmVcpuInit,
    VgicAddress,
    VgicGroup,
)
from gz.driver import kvm_run

SYSTEM, VM, VGIC, VCPU_0 = 10, 11, 12, 20
TARGET = 5
SHARED_SIZE = 0x2000
FEATURES = {0b0100, 0b0101}
PAGE_SIZE = 0x1000
READONLY = 2  # linux/kvm.h, KVM_MEM_READONLY


def fail(number: int) -> OSError:
    return OSError(number, "refused")


def at(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)


@dataclass
class FakeKernel:
    """`script`: what RUN does for each vCPU; a row fills the shared page and gives 0 or a negative errno."""

    jit: Any
    script: dict[int, list[Callable[[KvmRun], int]]] = field(default_factory=dict[int, list[Callable[[KvmRun], int]]])
    capabilities: dict[int, int] = field(
        default_factory=lambda: {
            KvmCapability.IMMEDIATE_EXIT: 1,
            KvmCapability.ARM_NISV_TO_USER: 1,
            KvmCapability.ARM_VM_IPA_SIZE: 48,
        }
    )
    version: int = 12
    refused: dict[KvmRequest, int] = field(default_factory=dict[KvmRequest, int])
    address_bits: int | None = None
    enabled: list[int] = field(default_factory=list[int])
    slots: dict[int, tuple[int, int, int]] = field(default_factory=dict[int, tuple[int, int, int]])
    flags: dict[int, int] = field(default_factory=dict[int, int])
    vcpus: dict[int, int] = field(default_factory=dict[int, int])
    """File of a vCPU to its features, once it has some."""
    registers: dict[tuple[int, int], int] = field(default_factory=dict[tuple[int, int], int])
    records: dict[int, int] = field(default_factory=dict[int, int])
    """File of a vCPU to its record of stolen time."""
    irqs: int = 0
    windows: dict[int, int] = field(default_factory=dict[int, int])
    vgic: bool = False
    initialized: bool = False
    lines: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    irqfds: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    ioeventfds: list[tuple[int, int, int, int, int]] = field(default_factory=list[tuple[int, int, int, int, int]])
    runs: int = 0
    open: set[int] = field(default_factory=lambda: {SYSTEM})
    pages: dict[int, Any] = field(default_factory=dict[int, Any])

    def __post_init__(self) -> None:
        self.jit.on_svc(self.system_call)

    # --- what the driver calls

    def ioctl(self, file: int, request: int, argument: int | bytearray) -> int:
        assert file in self.open
        request = KvmRequest(request)
        assert isinstance(argument, bytearray) == bool(request >> 30)
        assert not isinstance(argument, bytearray) or len(argument) == request >> 16 & 0x3FFF
        if request in self.refused:
            raise fail(self.refused[request])
        level = {SYSTEM: "system", VM: "vm", VGIC: "vgic"}.get(file, "vcpu")
        return getattr(self, f"{level}_{request.name.lower()}")(file, argument) or 0

    def share(self, file: int, size: int) -> memoryview:
        assert file in self.vcpus and size == SHARED_SIZE
        self.pages[file] = self.jit.buffer(size)
        return self.pages[file].memory

    def runner(self, vcpu: int, run: memoryview, page: memoryview) -> Callable[[], int]:
        function = self.jit.fn(kvm_run.kvm_run)
        return lambda: function(vcpu, KvmRun.view(run), address_of(page))

    def close(self, file: int) -> None:
        self.open.remove(file)

    # --- what comes of it

    def system_call(self, number: int, file: int, request: int, argument: int, *rest: int) -> int:
        assert (number, request, argument) == (kvm_run.IOCTL, KvmRequest.RUN, 0)
        assert file in self.open and self.vcpus[file] in FEATURES, "a vCPU runs that is not initialized"
        assert self.initialized or not self.vgic
        self.runs += 1
        run = KvmRun.view(self.pages[file].memory)
        if run.immediate_exit:
            return -errno.EINTR
        return self.script[file - VCPU_0].pop(0)(run)

    def system_get_api_version(self, file: int, argument: int) -> int:
        return self.version

    def system_check_extension(self, file: int, capability: int) -> int:
        return self.capabilities.get(capability, 0)

    def system_get_vcpu_mmap_size(self, file: int, argument: int) -> int:
        return SHARED_SIZE

    def system_create_vm(self, file: int, bits: int) -> int:
        self.address_bits = bits
        self.open.add(VM)
        return VM

    def vm_enable_cap(self, file: int, argument: bytearray) -> None:
        self.enabled.append(KvmEnableCap.view(argument).cap)

    def vm_set_user_memory_region(self, file: int, argument: bytearray) -> None:
        region = IoctlMemoryRegion.view(argument)
        assert not region.flags & ~READONLY and not (region.gpa | region.memory_size | region.user_address) % PAGE_SIZE
        if region.memory_size == 0:
            del self.slots[region.slot]
            return
        assert region.slot not in self.slots, "the flags of a slot never change"
        self.slots[region.slot] = region.gpa, region.memory_size, region.user_address
        self.flags[region.slot] = region.flags

    def vm_create_device(self, file: int, argument: bytearray) -> None:
        device = KvmCreateDevice.view(argument)
        assert device.type == VGIC_V3 and not device.flags
        if self.vgic:
            raise fail(errno.EEXIST)
        self.vgic = True
        self.open.add(VGIC)
        device.fd = VGIC

    def vgic_set_device_attr(self, file: int, argument: bytearray) -> None:
        attribute = KvmDeviceAttribute.view(argument)
        match attribute.group:
            case VgicGroup.IRQ_COUNT:
                count = int.from_bytes(at(attribute.address, 4), "little")
                if self.irqs or self.initialized:
                    raise fail(errno.EBUSY)
                if count % 32 or not 64 <= count <= 1023:
                    raise fail(errno.EINVAL)
                self.irqs = count
            case VgicGroup.ADDRESS:
                which = VgicAddress(attribute.attribute)
                if which in self.windows:
                    raise fail(errno.EEXIST)
                self.windows[which] = int.from_bytes(at(attribute.address, 8), "little")
            case VgicGroup.CONTROL:
                assert attribute.attribute == 0 and self.vcpus and len(self.windows) == 2 and self.irqs
                assert not self.initialized, "once is enough"
                self.initialized = True
            case _:
                raise fail(errno.ENXIO)

    def vcpu_set_device_attr(self, file: int, argument: bytearray) -> None:
        attribute = KvmDeviceAttribute.view(argument)
        record = int.from_bytes(at(attribute.address, 8), "little")
        if (attribute.group, attribute.attribute) != (2, 0):
            raise fail(errno.ENXIO)
        if record % 64 or not any(gpa <= record < gpa + size for gpa, size, _ in self.slots.values()):
            raise fail(errno.EINVAL)
        if file in self.records:
            raise fail(errno.EEXIST)
        self.records[file] = record

    def vm_create_vcpu(self, file: int, index: int) -> int:
        if self.initialized:
            raise fail(errno.EBUSY)
        vcpu = VCPU_0 + index
        assert vcpu not in self.vcpus
        self.vcpus[vcpu] = 0
        self.open.add(vcpu)
        return vcpu

    def vm_arm_preferred_target(self, file: int, argument: bytearray) -> None:
        KvmVcpuInit.view(argument).target = TARGET

    def vcpu_arm_vcpu_init(self, file: int, argument: bytearray) -> None:
        init = KvmVcpuInit.view(argument)
        assert init.target == TARGET and init.features[0] in FEATURES and not any(init.features[i] for i in range(1, 7))
        self.vcpus[file] = init.features[0]

    def vcpu_set_one_reg(self, file: int, argument: bytearray) -> None:
        register = IoctlOneReg.view(argument)
        size = 1 << (register.id >> 52 & 15)
        self.registers[file - VCPU_0, register.id] = int.from_bytes(at(register.address, size), "little")

    def vcpu_get_one_reg(self, file: int, argument: bytearray) -> None:
        register = IoctlOneReg.view(argument)
        value = self.registers.get((file - VCPU_0, register.id))
        if value is None:
            raise fail(errno.ENOENT)
        size = 1 << (register.id >> 52 & 15)
        ctypes.memmove(register.address, value.to_bytes(size, "little"), size)

    def vm_irq_line(self, file: int, argument: bytearray) -> None:
        line = IoctlIrqLine.view(argument)
        if not self.initialized:
            raise fail(errno.EBUSY)
        if line.irq >> 16 != 0x0100 or not 32 <= line.irq & 0xFFFF < self.irqs:
            raise fail(errno.EINVAL)
        self.lines.append((line.irq & 0xFFFF, line.level))

    def vm_irqfd(self, file: int, argument: bytearray) -> None:
        event = IoctlIrqfd.view(argument)
        assert self.initialized and not event.flags
        self.irqfds.append((event.fd, event.gsi))

    def vm_ioeventfd(self, file: int, argument: bytearray) -> None:
        event = IoctlIoeventfd.view(argument)
        row = event.address, event.length, event.fd, event.flags, event.datamatch
        if any(other[:2] == row[:2] and other[3:] == row[3:] for other in self.ioeventfds):
            raise fail(errno.EEXIST)
        self.ioeventfds.append(row)


def address_of(memory: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))
