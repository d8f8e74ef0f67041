# SPDX-License-Identifier: Apache-2.0
"""Debian's EDK2 as an unmodified guest's firmware, on the core: it starts Debian's kernel, and keeps its variables."""

from __future__ import annotations

import signal

import pytest
from esp import make_esp
from hosts import GUEST_TIMEOUT, Host

from gz.abi.memory import BLOCK_SIZE
from gz.board.deb import entries
from gz.board.debian import Debian
from gz.board.initramfs import Tree
from gz.board.vmm import QUIET, TO_ERRORS, Guest, start_command

CODE = "usr/share/AAVMF/AAVMF_CODE.fd"
EFIVARFS = "/sys/firmware/efi/efivars"
VARIABLE = f"{EFIVARFS}/kept-c58b9d0c-6a5e-4b56-9c0e-3a1f5d2e7b41"
MOUNT = f"set -e; insmod /efivarfs.ko; mount -t efivarfs efivarfs {EFIVARFS}"
SET = rf"{MOUNT}; printf '\7\0\0\0by firmware' >{VARIABLE}; dmesg | grep 'EFI v2'"
STARTED = b"EFI stub: Exiting boot services"
GET = f"{MOUNT}; tail -c +5 {VARIABLE}"


@pytest.fixture(scope="module")
def firmware() -> bytes:
    """Without the padding."""
    debian = Debian()
    (package,) = debian.closure("qemu-efi-aarch64")
    content = next(entry.content for entry in entries(debian.path(package)) if entry.name == CODE)
    assert content is not None
    return content[:BLOCK_SIZE]


def test_a_kernel_and_a_variable_that_outlives_it(host: Host, firmware: bytes) -> None:
    """The kernel comes by fw_cfg; the variable is set and read by calls into the firmware that Linux makes."""
    host.shell("mkdir -p /run/test; rm -f /run/test/variables")
    host.board.host.put("/run/test/firmware", firmware)
    extra = Tree()
    extra.file("efivarfs.ko", host.software.kernel.modules["efivarfs"])
    for script, printed in ((SET, "efi: EFI v2.70 by EDK II"), (GET, "by firmware")):
        initrd = host.initrd(["sh", "-c", script])
        host.board.host.put("/run/test/modules", extra.archive())
        host.shell(f"cat /run/test/modules >>{initrd}")
        guest = Guest(
            host.board.disk("gz-kernel"),
            initrd,
            memory=256,
            params=QUIET,
            firmware="/run/test/firmware",
            variables="/run/test/variables",
        )
        process = start_command(host.board.host, guest, TO_ERRORS)
        process.end_input()
        done = process.wait(GUEST_TIMEOUT)
        assert done.status == 0 and printed in done.stdout.decode(), done
    assert host.huge_pages() == 0


def test_a_program_on_a_disk(host: Host, firmware: bytes) -> None:
    """Found by the boot manager on a virtio disk: Debian's kernel, which is an EFI program."""
    length = host.software.kernel_file().stat().st_size
    head, size = make_esp(length)
    host.shell("mkdir -p /run/test")
    host.board.host.put("/run/test/firmware", firmware)
    host.board.host.put("/run/test/head", head)
    kernel = host.board.disk("gz-kernel")
    host.shell(f"cd /run/test; head -c {length} {kernel} | cat head - >esp; truncate -s {size} esp")
    options = Guest(
        memory=256,
        params="",
        disks=["/run/test/esp,ro"],
        firmware="/run/test/firmware",
        variables="/run/test/variables",
    ).options()
    process = host.board.host.start(["python3", "-m", "gz.vmm", *options])
    seen, stopped = b"", False
    for _, data in process.events():
        seen += data
        if not stopped and STARTED in seen:
            stopped = True
            process.signal(signal.SIGTERM)
    assert stopped and b"BdsDxe: starting Boot0001" in seen, seen
    host.shell("rm /run/test/esp")
