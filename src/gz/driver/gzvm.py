# SPDX-License-Identifier: Apache-2.0
"""A VM through /dev/gzvm: the kernel's driver makes the calls (its versions 6 to 13, whose interface is the same)."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from gz.abi import device
from gz.abi.calls import VCPUS_MAX
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.device import (
    IoctlDtbConfig,
    IoctlEnableCap,
    IoctlIoeventfd,
    IoctlIrqfd,
    IoctlIrqLine,
    IoctlMemoryRegion,
    IoctlOneReg,
    IoeventfdFlag,
    IrqNumber,
    IrqType,
)
from gz.abi.devices import DeviceRequest, DeviceType
from gz.abi.memory import BLOCK_SIZE, SLOTS_MAX, Access, Purpose
from gz.abi.registers import RegisterId
from gz.abi.run import PAGE_SIZE, RunPage
from gz.bits.view import address_of
from gz.driver.doorbell import LIBRARY
from gz.driver.interface import INTERRUPTED, DriverError
from gz.driver.kernel import filled
from gz.driver.pages import SharedBlock
from gz.driver.vcpu import KICK, install_kick

IMMEDIATE_EXIT = RunPage.offset("immediate_exit")


class Kernel(Protocol):
    def ioctl(self, file: int, request: int, argument: int | bytearray) -> int:
        """An argument in memory is updated. OSError."""
        ...

    def runner(self, vcpu: int, page: memoryview) -> Callable[[], int]:
        """`gz.driver.gzvm_run.gzvm_run` on a vCPU's file and the page of this process that it fills."""
        ...

    def close(self, file: int) -> None: ...


class Linux:
    """The kernel of this host. DriverError if the driver's compiled part is not there."""

    def __init__(self, library: Path = LIBRARY) -> None:
        if not library.exists():
            raise DriverError(f"{library} is missing: the installation is incomplete")
        self._run: Any = ctypes.CDLL(str(library)).gzvm_run  # lets other threads run meanwhile
        self._run.restype, self._run.argtypes = ctypes.c_int64, (ctypes.c_uint64, ctypes.c_uint64)

    def open(self) -> int:
        try:
            return os.open(device.PATH, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DriverError(f"cannot open {device.PATH}: {error.strerror}") from None

    def ioctl(self, file: int, request: int, argument: int | bytearray) -> int:
        return fcntl.ioctl(file, request, argument)

    def runner(self, vcpu: int, page: memoryview) -> Callable[[], int]:
        return partial(self._run, ctypes.c_uint64(vcpu), ctypes.c_uint64(address_of(page)))

    def close(self, file: int) -> None:
        os.close(file)


class GzvmVcpu:
    """`file`: what CREATE_VCPU gave."""

    def __init__(self, vm: GzvmVm, index: int, file: int) -> None:
        self.index = index
        self.page = memoryview(bytearray(PAGE_SIZE))
        self._vm = vm
        self._file = file
        self.again = vm.kernel.runner(file, self.page)
        self._thread: int | None = None
        self._kicked = False

    def enter(self) -> int:
        if self._thread is None:
            self._thread = threading.get_ident()
        return self.settle(self.again())

    def settle(self, reason: int) -> int:
        while reason == -errno.EINTR:
            # The driver wrote back the page as it was when RUN began, so what `kick` wrote may be gone, or come yet.
            self.page[IMMEDIATE_EXIT] = 0
            if self._kicked:
                self._kicked = False
                return INTERRUPTED
            reason = self.again()
        if reason < 0:
            raise DriverError(f"RUN of {device.PATH} failed: {os.strerror(-reason)}")
        return reason

    def kick(self) -> None:
        self._kicked = True
        self.page[IMMEDIATE_EXIT] = 1
        if self._thread is not None:
            with suppress(ProcessLookupError):
                signal.pthread_kill(self._thread, KICK)

    def set_register(self, register: int, value: int) -> None:
        memory = bytearray(value.to_bytes(1 << RegisterId(register).SIZE, "little"))
        argument = filled(IoctlOneReg, id=register, address=address_of(memory))
        self._vm.request("SET_ONE_REG", device.SET_ONE_REG, argument, self._file)

    def get_register(self, register: int) -> int:
        raise DriverError(f"{device.PATH} reads no registers")


class GzvmVm:
    """Made on the open file `system` of /dev/gzvm, which is this object's from then on."""

    def __init__(self, kernel: Kernel, system: int) -> None:
        self.kernel = kernel
        self._files = [system]
        self._blocks: list[SharedBlock] = []
        self._slots: set[int] = set()
        self._vcpus: dict[int, GzvmVcpu] = {}
        try:
            self._vm = self.request("CREATE_VM", device.CREATE_VM, 0, system)
            self._files.append(self._vm)
        except BaseException:
            self.close()
            raise

    def request(self, name: str, number: int, argument: int | bytearray, file: int | None = None) -> int:
        """An ioctl on a file, the VM's if none is given; an argument in memory is updated. DriverError."""
        try:
            return self.kernel.ioctl(self._vm if file is None else file, number, argument)
        except OSError as error:
            raise DriverError(f"{name} of {device.PATH} failed: {os.strerror(error.errno or errno.EIO)}") from None

    def add_memory(self, slot: int, gpa: int, size: int, purpose: Purpose) -> memoryview:
        if not 0 <= slot < SLOTS_MAX or slot in self._slots:
            raise ValueError(f"memory slot {slot} does not exist or is taken")
        if gpa % BLOCK_SIZE or size % BLOCK_SIZE or size <= 0:
            raise ValueError(f"{size:#x} bytes at {gpa:#x} are not made of 2 MiB blocks")
        block = SharedBlock(size)
        self._blocks.append(block)
        region = filled(
            IoctlMemoryRegion, slot=slot, flags=purpose, gpa=gpa, memory_size=size, user_address=block.address
        )
        self.request("SET_USER_MEMORY_REGION", device.SET_USER_MEMORY_REGION, region)
        self._slots.add(slot)
        return block.view

    def set_access(self, slot: int, access: Access) -> bool:
        return access == Access.READ_WRITE

    def create_device(self, kind: DeviceType, base: int, size: int) -> None:
        request = filled(DeviceRequest, type=kind, base=base, window_size=size)
        self.request("CREATE_DEVICE", device.CREATE_DEVICE, request)

    def create_vcpu(self, index: int) -> GzvmVcpu:
        if not 0 <= index < VCPUS_MAX or index in self._vcpus:
            raise ValueError(f"vCPU {index} does not exist or is taken")
        file = self.request("CREATE_VCPU", device.CREATE_VCPU, index)
        self._files.append(file)
        vcpu = self._vcpus[index] = GzvmVcpu(self, index, file)
        return vcpu

    def enable_capability(self, capability: int, *arguments: int) -> int:
        memory = filled(IoctlEnableCap, cap=capability)
        view = IoctlEnableCap.view(memory)
        for number, value in enumerate(arguments):
            view.args[number] = value
        self.request("ENABLE_CAP", device.ENABLE_CAP, memory)
        asked = capability == Capability.PROTECTED_VM and arguments == (ProtectedVm.GET_FIRMWARE_SIZE,)
        return view.args[1] if asked else 0

    def set_dtb(self, gpa: int, size: int) -> None:
        self.request("SET_DTB_CONFIG", device.SET_DTB_CONFIG, filled(IoctlDtbConfig, address=gpa, dtb_size=size))

    def irq_line(self, spi: int, level: int) -> None:
        line = IrqNumber(TYPE=IrqType.SPI, NUMBER=spi)
        self.request("IRQ_LINE", device.IRQ_LINE, filled(IoctlIrqLine, irq=line, level=level))

    def irqfd(self, fd: int, spi: int) -> None:
        self.request("IRQFD", device.IRQFD, filled(IoctlIrqfd, fd=fd, gsi=spi))

    def ioeventfd(self, address: int, size: int, fd: int, data: int | None = None) -> None:
        event = filled(IoctlIoeventfd, address=address, length=size, fd=fd)
        if data is not None:
            view = IoctlIoeventfd.view(event)
            view.datamatch, view.flags = data, int(IoeventfdFlag.DATAMATCH)
        self.request("IOEVENTFD", device.IOEVENTFD, event)

    def close(self) -> None:
        """Who still has bytes that `add_memory` gave keeps them mapped in this process."""
        self._vcpus.clear()
        while self._files:
            self.kernel.close(self._files.pop())
        for block in self._blocks:
            block.close()
        self._blocks.clear()


def open_gzvm(log: Callable[[str], object]) -> GzvmVm:
    """A new, empty VM on this host. DriverError if there cannot be one."""
    install_kick()
    kernel = Linux()
    return GzvmVm(kernel, kernel.open())
