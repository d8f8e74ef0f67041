# SPDX-License-Identifier: Apache-2.0
"""Firmware in a guest's flash: a bank of code, a bank of what it stores, and the kernel that it is told to start."""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from gz.abi.memory import BLOCK_SIZE, Access, Purpose
from gz.driver.interface import Vm
from gz.vmm.bus import Bus
from gz.vmm.devices.flash import ERASED, Flash
from gz.vmm.devices.fw_cfg import Bytes, File, Item, Key, number
from gz.vmm.loader import LoadError, open_file, read_into
from gz.vmm.maps import Map

EFI_MAGIC = b"MZ"
EMPTY = bytes([ERASED]) * BLOCK_SIZE
CODE_SLOT, VARIABLES_SLOT = 1, 2


class Variables:
    """The file behind the bank where firmware stores variables; `path` None: one without a name, which lives as long as
    this object."""

    def __init__(self, path: str | None, room: int) -> None:
        """`room`: the bank's bytes. LoadError."""
        self.named = path is not None
        self.path = path or "variables"
        if path is None:
            self.fd = os.memfd_create("variables", os.MFD_CLOEXEC)
            os.pwrite(self.fd, EMPTY, 0)
            return
        try:
            # What the guest is told to be stored is stored.
            self.fd = os.open(path, os.O_RDWR | os.O_DSYNC | os.O_CLOEXEC)
        except OSError as error:
            raise LoadError(f"variables {path}: {error.strerror}") from None
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            check_size(path, "variables", os.lseek(self.fd, 0, os.SEEK_END), room)
        except BlockingIOError:
            os.close(self.fd)
            raise LoadError(f"variables {path}: in use by another guest") from None
        except (OSError, LoadError):
            os.close(self.fd)
            raise

    def keep(self, offset: int, data: bytes) -> None:
        """OSError."""
        while data:
            done = os.pwrite(self.fd, data, offset)
            data, offset = data[done:], offset + done

    def close(self) -> None:
        os.close(self.fd)


def create_variables(path: Path, firmware: Path) -> None:
    """Unless there is a file at `path`: a copy of the template that lies beside the firmware (Debian's AAVMF_VARS.fd
    beside AAVMF_CODE.fd), or else a block of erased flash. LoadError."""
    template = firmware.with_name(firmware.name.replace("CODE", "VARS"))
    try:
        if path.exists():
            return
        if template != firmware and template.exists():
            shutil.copyfile(template, path)
        else:
            path.write_bytes(EMPTY)
    except OSError as error:
        raise LoadError(f"variables {path}: {error.strerror}") from None


def check_size(path: str, what: str, length: int, room: int) -> None:
    if length == 0:
        raise LoadError(f"{what} {path}: the file is empty")
    if length > room:
        raise LoadError(f"{what} {path}: {length:#x} bytes, and the flash of this machine has {room:#x}")


def add_flash(vm: Vm, bus: Bus, machine: Map, firmware: str, variables: Variables) -> None:
    """The firmware where `machine` has it: in plain memory, or beside a bank for variables, in flash with its commands
    served by this process. LoadError."""
    with open_file(firmware, "firmware") as source:
        check_size(firmware, "firmware", source.seek(0, os.SEEK_END), machine.flash_size)
        code = _load(vm, CODE_SLOT, machine.flash, firmware, source.fileno())
    if machine.variables is None:
        if variables.named:
            raise LoadError(f"the machine {machine.name} has no flash for variables")
        return
    store = _load(vm, VARIABLES_SLOT, machine.variables, variables.path, variables.fd)
    for slot, base, bank, keep in (
        (CODE_SLOT, machine.flash, code, None),
        (VARIABLES_SLOT, machine.variables, store, variables.keep),
    ):
        if vm.set_access(slot, Access.READ_ONLY):
            show = partial(_show, vm, slot)
            bus.attach(
                f"flash {slot}", base, machine.flash_size, Flash(bank[0], machine.flash_size, show, keep, bank[1])
            )
        elif variables.named:
            raise LoadError("the kernel's gzvm driver has no read-only memory, so nothing is stored; leave --vars away")


def _show(vm: Vm, slot: int, as_memory: bool) -> None:
    vm.set_access(slot, Access.READ_ONLY if as_memory else Access.NONE)


def _load(vm: Vm, slot: int, base: int, path: str, fd: int) -> tuple[memoryview, int]:
    """Gives the memory, and the byte that the rest of the bank consists of."""
    length = os.lseek(fd, 0, os.SEEK_END)
    front, rest = extent(fd, length)
    view = vm.add_memory(slot, base, front, Purpose.NONE)
    stored = min(length, front)
    view[stored:] = EMPTY[: front - stored]
    os.lseek(fd, 0, os.SEEK_SET)
    with open(fd, "rb", buffering=0, closefd=False) as source:
        read_into(source, view[:stored], path)
    return view, rest


def extent(fd: int, length: int) -> tuple[int, int]:
    """Bytes of the blocks up to the last one that is not just padding, and the byte behind them."""
    if length <= BLOCK_SIZE:
        return BLOCK_SIZE, ERASED
    rest = os.pread(fd, 1, length - 1)
    padding = rest * BLOCK_SIZE
    start = (length - 1) // BLOCK_SIZE * BLOCK_SIZE
    while start > 0:
        block = os.pread(fd, BLOCK_SIZE, start)
        if block != padding[: len(block)]:
            break
        start -= BLOCK_SIZE
    return start + BLOCK_SIZE, rest[0]


def kernel_items(kernel: str, initrd: str | None, params: str, undo: ExitStack) -> dict[int, Item]:
    """What fw_cfg says of a kernel that the firmware is to start; `undo` closes its files. LoadError."""
    items: dict[int, Item] = {}
    source = undo.enter_context(open_file(kernel, "kernel"))
    if os.pread(source.fileno(), len(EFI_MAGIC), 0) != EFI_MAGIC:
        raise LoadError(f"kernel {kernel}: not an EFI program, which firmware wants; unpack it if it is packed")
    items[Key.KERNEL_DATA] = File(source.fileno())
    if initrd is not None:
        items[Key.INITRD_DATA] = File(undo.enter_context(open_file(initrd, "initrd")).fileno())
    items[Key.CMDLINE_DATA] = Bytes(params.encode() + b"\0")
    for data, size in SIZES.items():
        items[size] = number(items[data].size if data in items else 0)
    return items


SIZES = {
    Key.KERNEL_DATA: Key.KERNEL_SIZE,
    Key.INITRD_DATA: Key.INITRD_SIZE,
    Key.CMDLINE_DATA: Key.CMDLINE_SIZE,
}
