# SPDX-License-Identifier: Apache-2.0
"""Stock Debian as a guest that the core starts beside a stock Debian host, and a payload beside both."""

from __future__ import annotations

import re
import time
from pathlib import Path

from hosts import BOOT_TIMEOUT, GUEST_TIMEOUT

from gz.board.board import Board
from gz.board.guest import guest_initrd, guest_kernel
from gz.board.host_vm import Software
from gz.board.initramfs import Tree
from gz.board.qemu import BootGuest
from gz.cli import products
from payloads import clock

INIT = b"""\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox uname -sm
/bin/busybox grep -c ^processor /proc/cpuinfo
/bin/busybox sleep 1
/bin/busybox poweroff -f
"""


def said(console: Path, name: str) -> list[str]:
    """By one of the guests, perhaps behind something of the host's that has not ended its line."""
    return re.findall(rf"{name}: (.*?)\r?$", console.read_text(errors="replace"), re.MULTILINE)


def test_debian_beside_debian(tmp_path: Path) -> None:
    software = Software()
    program = Tree()
    program.file("init", INIT, 0o755)
    initrd = tmp_path / "initrd"
    initrd.write_bytes(guest_initrd(software).read_bytes() + program.archive())
    guests = [
        BootGuest("ticker", products.payload("clock").flat, memory=16),
        BootGuest("debian", guest_kernel(software), initrd, 192, 2, "console=ttyAMA0 loglevel=4 panic=-1"),
    ]
    with Board(core=products.core(), software=software, guests=guests, boot_timeout=BOOT_TIMEOUT) as board:
        console = board.qemu.directory / "console.log"
        reserved = board.run(["sh", "-c", "ls -d /proc/device-tree/reserved-memory/core@*"]).text.split()
        assert len(reserved) >= 1 + len(guests)
        end = time.monotonic() + GUEST_TIMEOUT
        while "off" not in said(console, "debian") and time.monotonic() < end:
            time.sleep(0.5)
        told = said(console, "debian")
        assert told[:2] == ["Linux aarch64", "2"] and told[-1] == "off", told[-20:]
        assert said(console, "ticker") == [f"{clock.TURNS} turns", *(f"tick {n}" for n in range(clock.TICKS)), "off"]
        log = board.run(["dmesg"]).text
        assert not any(bad in log for bad in ("Oops", "Internal error", "WARNING:", "rcu: INFO"))
