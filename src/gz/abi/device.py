# SPDX-License-Identifier: Apache-2.0
"""/dev/gzvm as user space sees it: ioctl numbers and the structures they carry (Linux, asm-generic/ioctl.h)."""

from __future__ import annotations

from enum import IntEnum, IntFlag

from gz.abi.devices import DeviceRequest
from gz.bits import Array, Register, Struct, array, field, i32, u8, u32, u64

PATH = "/dev/gzvm"
MAGIC = 0x92
WRITE = 1
READ = 2


def ioctl_number(number: int, size: int = 0, direction: int = 0) -> int:
    """direction 31:30, argument size 29:16, magic 15:8, number 7:0."""
    return direction << 30 | size << 16 | MAGIC << 8 | number


class IoctlMemoryRegion(Struct):
    slot: u32
    flags: u32
    """A :class:`gz.abi.memory.Purpose`."""
    gpa: u64
    memory_size: u64
    user_address: u64


class IoctlIrqLine(Struct):
    irq: u32
    """An :class:`IrqNumber`."""
    level: u32


class IrqNumber(Register, width=32):
    VCPU_HIGH = field(31, 28)
    TYPE = field(27, 24)
    VCPU = field(23, 16)
    NUMBER = field(15, 0)


class IrqType(IntEnum):
    CPU = 0
    SPI = 1
    PPI = 2


class IoctlIrqfd(Struct):
    fd: u32
    gsi: u32
    flags: u32
    resamplefd: u32
    padding: Array[u8] = array(16)


class IrqfdFlag(IntFlag):
    DEASSIGN = 1
    RESAMPLE = 2


class IoctlIoeventfd(Struct):
    datamatch: u64
    address: u64
    length: u32
    """1, 2, 4 or 8; 0 matches every length."""
    fd: i32
    flags: u32
    padding: Array[u8] = array(36)


class IoeventfdFlag(IntFlag):
    DATAMATCH = 1
    PIO = 2
    DEASSIGN = 4


class IoctlEnableCap(Struct):
    cap: u64
    args: Array[u64] = array(5)


class IoctlOneReg(Struct):
    id: u64
    address: u64


class IoctlDtbConfig(Struct):
    address: u64
    dtb_size: u64


CREATE_VM = ioctl_number(0x01)
CHECK_EXTENSION = ioctl_number(0x03)
CREATE_VCPU = ioctl_number(0x41)
SET_USER_MEMORY_REGION = ioctl_number(0x46, IoctlMemoryRegion.size, WRITE)
IRQ_LINE = ioctl_number(0x61, IoctlIrqLine.size, WRITE)
IRQFD = ioctl_number(0x76, IoctlIrqfd.size, WRITE)
IOEVENTFD = ioctl_number(0x79, IoctlIoeventfd.size, WRITE)
RUN = ioctl_number(0x80)
ENABLE_CAP = ioctl_number(0xA3, IoctlEnableCap.size, WRITE)
GET_ONE_REG = ioctl_number(0xAB, IoctlOneReg.size, WRITE)
SET_ONE_REG = ioctl_number(0xAC, IoctlOneReg.size, WRITE)
CREATE_DEVICE = ioctl_number(0xE0, DeviceRequest.size, READ | WRITE)
SET_DTB_CONFIG = ioctl_number(0xFF, IoctlDtbConfig.size, WRITE)
