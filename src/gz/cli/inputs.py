# SPDX-License-Identifier: Apache-2.0
"""What users name on the command line, looked at before anything is started."""

from __future__ import annotations

import os
import re
import shutil
import socket
import stat
from pathlib import Path

from gz.abi.calls import VCPUS_MAX
from gz.board.qemu import Disk
from gz.cli.report import UserError
from gz.state import state_directory
from gz.vmm.firmware import EFI_MAGIC, create_variables
from gz.vmm.kernel import HEADER_SIZE, is_image, refuse_others
from gz.vmm.loader import LoadError
from gz.vmm.maps import Map

MiB = 1 << 20
UNITS = {"": MiB, "M": MiB, "G": 1 << 30}
SMALLEST_GUEST = 64
"""MiB; with less Debian's kernel and root file system do not fit."""

BOOT_GUEST_MEMORY = 128
"""MiB, of a guest that the core starts, if nothing else is said."""
GZIP = b"\x1f\x8b"
SECTOR = 512
ROOM = 128  # MiB

# What Linux unpacks (lib/decompress.c, init/initramfs.c).
INITRD_MAGICS = (
    b"070701",
    b"070702",
    GZIP,
    b"BZh",
    b"\x5d\x00\x00",
    b"\xfd7zXZ",
    b"\x89LZO",
    b"\x02!L\x18",
    b"\x28\xb5\x2f\xfd",
)


def memory(text: str, smallest: int = SMALLEST_GUEST) -> int:
    """MiB in "512M", "1G" or "512"."""
    match = re.fullmatch(r"(\d+)([MG]?)", text.strip().upper().removesuffix("IB").removesuffix("B"))
    if not match:
        raise UserError(f"{text!r} is not a memory size; write it as 512M or 1G")
    size = int(match[1]) * UNITS[match[2]] // MiB
    if size < smallest:
        raise UserError(f"{text} is too little memory; at least {smallest}M are needed")
    if size % 2:
        raise UserError(f"{text}: memory comes in pieces of 2M")
    return size


def kernel(path: Path, machine: Map, memory: int) -> bool:
    """Refuse what is no kernel for a guest of `memory` MiB; True for a Linux Image, False for other code."""
    try:
        return is_image(str(path), (machine.ram, memory * MiB))
    except LoadError as error:
        raise UserError(str(error)) from None


def boot_guest(text: str) -> tuple[str, str, Path | None, int, int, str]:
    """Name, kernel, initrd, MiB, vCPUs and the kernel's parameters in
    NAME=KERNEL[,initrd=FILE][,mem=SIZE][,cpus=N][,params=TEXT]."""
    name, _, rest = text.partition("=")
    rest, _, params = rest.partition(",params=")
    kernel, *settings = rest.split(",")
    if not re.fullmatch(r"[\w.-]{1,32}", name, re.ASCII) or not kernel:
        raise UserError(f"--vm {text}: write it as NAME=KERNEL[,initrd=FILE][,mem=SIZE][,cpus=N][,params=TEXT]")
    found: Path | None = None
    size = BOOT_GUEST_MEMORY
    cpus = 1
    for setting in settings:
        key, _, value = setting.partition("=")
        if key == "initrd":
            found = initrd(Path(value))
        elif key == "mem":
            size = memory(value, 2)
        elif key == "cpus":
            if not re.fullmatch(f"[1-{VCPUS_MAX}]", value):
                raise UserError(f"--vm {text}: cpus={value} is not a number from 1 to {VCPUS_MAX}")
            cpus = int(value)
        else:
            raise UserError(f"--vm {text}: no setting {key!r}; there are initrd, mem, cpus and, at the end, params")
    return name, kernel, found, size, cpus, params


def firmware(path: Path, machine: Map, kernel: Path | None = None) -> None:
    """Refuse what does not fit into the flash or begins with no code, and a kernel that firmware does not start."""
    head = beginning(path, "firmware", HEADER_SIZE)
    fit_flash(path, "firmware", machine)
    try:
        refuse_others(str(path), "firmware", head)
    except LoadError as error:
        raise UserError(str(error)) from None
    if kernel is None:
        return
    if machine.fw_cfg is None:
        raise UserError(f"--machine {machine.name} has nothing that tells firmware of a kernel; leave --kernel away")
    if not beginning(kernel, "kernel", 2).startswith(EFI_MAGIC):
        raise UserError(f"kernel {kernel}: not an EFI program, which firmware wants; unpack it if it is packed")


def variables(path: Path, firmware: Path, machine: Map, serial: str) -> Disk:
    """The file where firmware stores variables, which is made if there is none."""
    if machine.variables is None:
        raise UserError(f"--machine {machine.name} has no flash for variables; leave --vars away")
    try:
        create_variables(path, firmware)
    except LoadError as error:
        raise UserError(str(error)) from None
    found = disk(f"{path},rw", 0)
    fit_flash(path, "variables", machine)
    return Disk(found.path, serial, False)


def fit_flash(path: Path, what: str, machine: Map) -> None:
    size = path.stat().st_size
    if size > machine.flash_size:
        raise UserError(f"{what} {path}: {size:#x} bytes, and the flash of this machine has {machine.flash_size:#x}")


def initrd(path: Path) -> Path:
    """A file system that Linux unpacks: cpio, perhaps compressed."""
    head = beginning(path, "initrd", 16)
    if not head.startswith(INITRD_MAGICS):
        raise UserError(f"initrd {path}: not a cpio archive, compressed or not ({kind(head)})")
    return path.absolute()


def fit(memory: int, kernel: Path | None, initrd: Path | None) -> None:
    """Refuse files that cannot lie in a guest's `memory` MiB together."""
    files = [path for path in (kernel, initrd) if path is not None]
    needed = -(-sum(path.stat().st_size for path in files) // MiB)
    if needed >= memory:
        names = " and ".join(str(path) for path in files)
        raise UserError(f"{names} have {needed} MiB and the guest's memory {memory}; give it more by --mem")


def disk(text: str, number: int) -> Disk:
    """FILE or FILE,ro: a raw image of whole sectors."""
    name, comma, option = text.rpartition(",")
    if not comma or option not in ("ro", "rw"):
        name, option = text, "rw"
    path = Path(name)
    read_only = option == "ro"
    try:
        mode = path.stat().st_mode
        with path.open("rb" if read_only else "r+b") as file:
            size = file.seek(0, os.SEEK_END)
    except OSError as error:
        hint = "; add ,ro to only read it" if isinstance(error, PermissionError) and not read_only else ""
        raise UserError(f"disk {name}: {error.strerror}{hint}") from None
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise UserError(f"disk {name}: neither a file nor a block device")
    if size == 0 or size % SECTOR:
        raise UserError(f"disk {name}: {size} bytes are not whole sectors of {SECTOR}")
    return Disk(path.absolute(), f"gz-disk{number}", read_only)


def port(number: int) -> int:
    """A TCP port on this machine that nobody has."""
    if not 1 <= number <= 65535:
        raise UserError(f"{number} is not a TCP port")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", number))
        except OSError as error:
            raise UserError(f"port {number} cannot be used: {error.strerror}; choose another") from None
    return number


def room() -> None:
    """Refuse to start when the disk is nearly full: whatever fails then fails with a worse message."""
    directory = state_directory()
    free = shutil.disk_usage(directory).free // MiB
    if free < ROOM:
        raise UserError(
            f"only {free} MiB of space are left in {directory}; "
            f"free {ROOM} at least, or choose another place by GZ_STATE"
        )


def beginning(path: Path, what: str, length: int) -> bytes:
    try:
        with path.open("rb") as file:
            head = file.read(length)
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror}") from None
    if not head:
        raise UserError(f"{what} {path}: the file is empty")
    return head


def kind(head: bytes) -> str:
    """What it looks like instead."""
    names = {
        b"\x7fELF": "an ELF file",
        b"MZ": "an EFI program without the Image header",
        b"#!": "a script",
        b"\x27\x05\x19\x56": "a U-Boot image",
        b"QFI\xfb": "a qcow2 disk",
        GZIP: "gzip",
    }
    return next((name for magic, name in names.items() if head.startswith(magic)), "unknown format")
