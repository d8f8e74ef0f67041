# SPDX-License-Identifier: Apache-2.0
"""`gz doctor`: what this machine has, from the bottom to the top."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from gz.board.debian import KEYRING, Debian, os_release
from gz.board.qemu import PROGRAM, available_memory
from gz.state import state_directory

ROOM_NEEDED = 1024  # MiB, for packages, images and builds
MEMORY_NEEDED = 2048 + 256  # MiB, the default board and QEMU itself


@dataclass(frozen=True)
class Finding:
    layer: str
    good: bool
    text: str


def system() -> Finding:
    release = os_release()
    name = release.get("PRETTY_NAME", "unknown system")
    return Finding("system", release.get("ID") == "debian", f"{name}, {platform.machine()}, {os.cpu_count()} CPUs")


def python() -> Finding:
    missing = [
        name
        for name in ("llvmlite", "ziglang", "qemu.qmp", "elftools", "libfdt", "rich")
        if importlib.util.find_spec(name) is None
    ]
    text = f"Python {platform.python_version()}" + (f", missing: {', '.join(missing)}" if missing else "")
    return Finding("python", not missing and sys.version_info >= (3, 11), text)


def qemu() -> Finding:
    path = shutil.which(PROGRAM)
    if path is None:
        return Finding("qemu", False, f"{PROGRAM} is missing: apt install qemu-system-arm")
    version = subprocess.run([path, "--version"], capture_output=True, text=True).stdout.partition("\n")[0]
    devices = subprocess.run([path, "-device", "help"], capture_output=True, text=True).stdout
    lacking = [d for d in ("guest-loader", "virtio-serial-device", "virtio-blk-device") if f'"{d}"' not in devices]
    return Finding("qemu", not lacking, version + (f", lacks {', '.join(lacking)}" if lacking else ""))


def memory() -> Finding:
    available = available_memory()
    return Finding("memory", available >= MEMORY_NEEDED, f"{available} MiB free, {MEMORY_NEEDED} wanted")


def room() -> Finding:
    directory = state_directory()
    free = shutil.disk_usage(directory).free >> 20
    return Finding("disk", free >= ROOM_NEEDED, f"{free} MiB free in {directory}, {ROOM_NEEDED} wanted")


def packages() -> Finding:
    if not KEYRING.exists():
        return Finding("packages", False, f"{KEYRING} is missing: apt install debian-archive-keyring")
    if shutil.which("apt-get") is None:
        return Finding("packages", False, "apt is missing: the board is made of Debian packages")
    fetched = Debian().fetched()
    return Finding(
        "packages",
        True,
        f"{fetched} Debian arm64 packages fetched"
        if fetched
        else "Debian arm64 packages will be fetched by the first run",
    )


def board() -> Finding:
    from gz.cli.board import current

    record = current()
    return Finding("board", True, f"up, process {record.pid}" if record else "none is up")


LAYERS: tuple[Callable[[], Finding], ...] = (system, python, qemu, memory, room, packages, board)


def examine(as_json: bool) -> int:
    """1 if a layer is not as it should be."""
    findings = [look() for look in LAYERS]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            print(f"{'ok ' if finding.good else 'BAD'}  {finding.layer:<9} {finding.text}")
    return 0 if all(finding.good for finding in findings) else 1
