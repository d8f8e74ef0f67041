# SPDX-License-Identifier: Apache-2.0
"""/dev/kvm on arm64 as user space sees it: ioctl numbers, capabilities and the structures they carry.

After Linux, Documentation/virt/kvm/api.rst and devices/arm-vgic-v3.rst. Register ids are those of
`gz.abi.registers`: gzvm has them from KVM."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from gz.abi.device import READ, WRITE, IoctlIoeventfd, IoctlIrqfd, IoctlIrqLine, IoctlMemoryRegion, IoctlOneReg
from gz.bits import Array, Struct, array, at, enumeration, u8, u32, u64, union

PATH = "/dev/kvm"
MAGIC = 0xAE
API_VERSION = 12
"""What GET_API_VERSION has answered since Linux 2.6.22 (api.rst, 4.1)."""


def ioctl_number(number: int, size: int = 0, direction: int = 0) -> int:
    """direction 31:30, argument size 29:16, magic 15:8, number 7:0 (Linux, asm-generic/ioctl.h)."""
    return direction << 30 | size << 16 | MAGIC << 8 | number


class KvmEnableCap(Struct):
    cap: u32
    flags: u32
    args: Array[u64] = array(4)
    padding: Array[u8] = array(64)


class KvmCreateDevice(Struct):
    type: u32
    fd: u32
    """Answer: what stands for the device."""
    flags: u32


class KvmDeviceAttribute(Struct):
    flags: u32
    group: u32
    attribute: u64
    address: u64
    """Of the value, in this process."""


class KvmVcpuInit(Struct):
    target: u32
    features: Array[u32] = array(7)


@enumeration(u32)
class KvmExit(IntEnum):
    UNKNOWN = 0
    EXCEPTION = 1
    DEBUG = 4
    MMIO = 6
    SHUTDOWN = 8
    FAIL_ENTRY = 9
    INTERNAL_ERROR = 17
    SYSTEM_EVENT = 24
    ARM_NISV = 28
    """A data abort outside memory whose syndrome does not say what was accessed; after capability NISV_TO_USER."""


class KvmMmio(Struct):
    phys_addr: u64
    data: u64
    """Bytes in memory order, the first `length` of them valid."""
    length: u32
    is_write: u8


class KvmFailEntry(Struct):
    reason: u64
    cpu: u32


class KvmInternalError(Struct):
    suberror: u32
    ndata: u32
    data: Array[u64] = array(16)


class KvmSystemEvent(Struct):
    type: u32
    """A :class:`gz.abi.exits.SystemEvent`."""
    ndata: u32
    data: Array[u64] = array(16)


class KvmNoSyndrome(Struct):
    esr_iss: u64
    fault_ipa: u64


class KvmRun(Struct):
    """The page a vCPU's file shares, as far as it is used here."""

    immediate_exit: u8 = at(1)
    """1: RUN comes back with EINTR before it enters the guest."""
    exit_reason: u32 = at(8)
    """A :class:`KvmExit`."""
    mmio: KvmMmio = union(32)
    fail_entry: KvmFailEntry = union(32)
    internal: KvmInternalError = union(32)
    system_event: KvmSystemEvent = union(32)
    no_syndrome: KvmNoSyndrome = union(32)


class KvmCapability(IntEnum):
    IMMEDIATE_EXIT = 136
    ARM_VM_IPA_SIZE = 165
    ARM_NISV_TO_USER = 177
    STEAL_TIME = 187


class KvmVcpuFeature(IntFlag):
    """Bits of features[0] of VCPU_INIT."""

    POWER_OFF = 1 << 0
    PSCI_0_2 = 1 << 2


VGIC_V3 = 7
"""Device type of a GICv3."""


class VcpuGroup(IntEnum):
    """Attributes of a vCPU (Linux, Documentation/virt/kvm/devices/vcpu.rst)."""

    PVTIME = 2
    """Attribute 0: the address of its record of stolen time, in a memory slot, a multiple of 64; once."""


class VgicGroup(IntEnum):
    ADDRESS = 0
    IRQ_COUNT = 3
    CONTROL = 4


class VgicAddress(IntEnum):
    DISTRIBUTOR = 2
    REDISTRIBUTORS = 3
    """Of all vCPUs, one after another."""


VGIC_INIT = 0
"""Attribute of group CONTROL; once all vCPUs are there, before the first interrupt."""
VGIC_IRQS_MAX = 992
"""Greatest value of IRQ_COUNT, a multiple of 32 that counts SGIs and PPIs too. The documentation says 1024, the
kernel refuses that."""


class KvmRequest(IntEnum):
    """The ioctls."""

    GET_API_VERSION = ioctl_number(0x00)
    CREATE_VM = ioctl_number(0x01)
    """Argument: bits of the guest-physical address space; 0: 40."""
    CHECK_EXTENSION = ioctl_number(0x03)
    GET_VCPU_MMAP_SIZE = ioctl_number(0x04)
    CREATE_VCPU = ioctl_number(0x41)
    SET_USER_MEMORY_REGION = ioctl_number(0x46, IoctlMemoryRegion.size, WRITE)
    IRQ_LINE = ioctl_number(0x61, IoctlIrqLine.size, WRITE)
    """Its number is a :class:`gz.abi.device.IrqNumber` whose NUMBER is the INTID."""
    IRQFD = ioctl_number(0x76, IoctlIrqfd.size, WRITE)
    """gsi n is SPI n as long as nobody sets routes."""
    IOEVENTFD = ioctl_number(0x79, IoctlIoeventfd.size, WRITE)
    RUN = ioctl_number(0x80)
    ENABLE_CAP = ioctl_number(0xA3, KvmEnableCap.size, WRITE)
    GET_ONE_REG = ioctl_number(0xAB, IoctlOneReg.size, WRITE)
    SET_ONE_REG = ioctl_number(0xAC, IoctlOneReg.size, WRITE)
    ARM_VCPU_INIT = ioctl_number(0xAE, KvmVcpuInit.size, WRITE)
    ARM_PREFERRED_TARGET = ioctl_number(0xAF, KvmVcpuInit.size, READ)
    CREATE_DEVICE = ioctl_number(0xE0, KvmCreateDevice.size, READ | WRITE)
    SET_DEVICE_ATTR = ioctl_number(0xE1, KvmDeviceAttribute.size, WRITE)
