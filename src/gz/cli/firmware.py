# SPDX-License-Identifier: Apache-2.0
"""Firmware of protected VMs for the core to carry: one file with both (gz.abi.firmware)."""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from gz.abi.firmware import FIRMWARE_MAX, MANIFEST_MAGIC, RANGES_MAX, Manifest
from gz.abi.run import PAGE_SIZE
from gz.arm64.image import ImageHeader
from gz.board.qemu import Disk
from gz.board.vmm import PORTS, Guest
from gz.cli import products
from gz.cli.report import UserError
from gz.vmm.kernel import load_kernel
from gz.vmm.loader import BLOCK, load_initrd
from gz.vmm.machine import describe, has_console
from gz.vmm.maps import Uart
from gz.vmm.memory import GuestMemory
from gz.vmm.options import Options, parse

VERIFY = "verify"
"""Instead of a file: our own, which starts what the user named and nothing else."""
KERNEL, INITRD = "gz-kernel", "gz-initrd"
"""The disks with the guest's files."""
_SECTOR = 512
Contents = bytes | memoryview


@dataclass(frozen=True)
class Verdict:
    """What a protected VM may run: `ranges` are (guest-physical address, contents); `ram` (address, bytes) has to be
    its alone. `uart8250`: the console's address if it is an 8250, else 0."""

    entry: int
    tree: int
    console: int
    ram: tuple[int, int]
    ranges: Sequence[tuple[int, Contents]]
    uart8250: int = 0


def carry(core: bytes, firmware: bytes) -> bytes:
    """The core's Image with firmware behind it, and an image_size for both."""
    whole = bytearray(_whole(core) + _pages(firmware))
    ImageHeader.view(memoryview(whole), 0).image_size = len(whole)
    return bytes(whole)


def verifier(image: bytes, verdict: Verdict) -> bytes:
    """`payloads.firmware` with its manifest."""
    assert len(verdict.ranges) <= RANGES_MAX, "more than the manifest has room for"
    page = bytearray(PAGE_SIZE)
    manifest = Manifest.view(memoryview(page), 0)
    manifest.magic = MANIFEST_MAGIC
    manifest.entry = verdict.entry
    manifest.tree = verdict.tree
    manifest.console = verdict.console
    manifest.ram, manifest.ram_length = verdict.ram
    manifest.uart8250 = verdict.uart8250
    manifest.count = len(verdict.ranges)
    for row, (address, contents) in zip(manifest.ranges, verdict.ranges, strict=False):
        row.address = address
        row.length = len(contents)
        for at, byte in enumerate(hashlib.sha512(contents).digest()):
            row.digest[at] = byte
    return _whole(image) + bytes(page)


def given(option: str | None) -> bytes | None:
    """The user's firmware; None for none and for our own. UserError for what the core would not offer."""
    if option is None or option == VERIFY:
        return None
    try:
        firmware = Path(option).read_bytes()
    except OSError as error:
        raise UserError(f"pvmfw {option}: {error.strerror}") from None
    if not firmware:
        raise UserError(f"pvmfw {option}: the file is empty")
    if len(_pages(firmware)) + PAGE_SIZE > FIRMWARE_MAX:
        raise UserError(f"pvmfw {option}: {len(firmware):#x} bytes, and at most {FIRMWARE_MAX - PAGE_SIZE:#x} fit")
    return firmware


def carried(core: Path, firmware: bytes, scratch: Path) -> Path:
    """The core's file with the firmware, in the directory `scratch`."""
    path = scratch / "core"
    path.write_bytes(carry(core.read_bytes(), firmware))
    return path


def promise(guest: Guest, files: Sequence[Disk], command: bool, scratch: Path) -> bytes:
    """Our own firmware for `guest`, which the VMM in the host VM will start from `files`; `command`: with the ports of
    a command. What lies in memory then is the VMM's own doing, here as there."""
    paths = {file.serial: str(_sectors(file.path, scratch / file.serial)) for file in files}
    guest = replace(guest, kernel=paths.get(KERNEL), initrd=paths.get(INITRD))
    ports = [word for port in PORTS for word in ("--port", port)] if command else []
    image = products.payload("firmware").flat.read_bytes()
    return verifier(image, foresee(parse(guest.options() + ports)))


def foresee(options: Options) -> Verdict:
    """The memory of a guest at its start, as this VMM makes it."""
    plan = options.plan
    place = plan.machine
    assert plan.kernel is not None, "firmware verifies a kernel"
    memory = GuestMemory([(place.ram, memoryview(mmap.mmap(-1, plan.memory)))])
    layout = load_kernel(memory, plan.kernel)
    initrd = None if plan.initrd is None else load_initrd(memory, plan.initrd, layout)
    consoles = int(has_console(options.consoles, bool(options.ports)))
    tree = describe(plan, initrd, consoles + len(plan.disks) + 1)  # the last one gives random numbers
    start = place.ram + BLOCK if layout.tree == place.ram else place.ram
    ranges: list[tuple[int, Contents]] = [(layout.tree, tree), (start, memory.at(start, layout.kernel_end - start))]
    if initrd is not None:
        ranges.append((initrd[0], memory.at(initrd[0], initrd[1] - initrd[0])))
    return Verdict(
        entry=layout.entry,
        tree=layout.tree,
        console=place.uart // PAGE_SIZE * PAGE_SIZE,
        ram=(place.ram, plan.memory),
        ranges=ranges,
        uart8250=place.uart if place.uart_kind is Uart.UART_8250 else 0,
    )


def _sectors(path: Path, copy: Path) -> Path:
    """The file as the host VM finds it on a disk: whole sectors."""
    rest = path.stat().st_size % _SECTOR
    if rest == 0:
        return path
    copy.write_bytes(path.read_bytes() + bytes(_SECTOR - rest))
    return copy


def _whole(image: bytes) -> bytes:
    """An Image as it lies in memory, with what begins as zeros."""
    header = ImageHeader.view(memoryview(bytearray(image)), 0)
    return image.ljust(header.image_size, b"\0")


def _pages(contents: bytes) -> bytes:
    return contents.ljust(-(-len(contents) // PAGE_SIZE) * PAGE_SIZE, b"\0")
