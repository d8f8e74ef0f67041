# SPDX-License-Identifier: Apache-2.0
"""Wherever the loader puts the core, the kernel and the initrd, Linux comes up."""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from gz.board.host_vm import Software
from gz.board.qemu import PROGRAM
from gz.metal.build import build

MIB = 1 << 20
RAM = 0x4000_0000
TIMEOUT = 120

MACHINE = ("-M", "virt,gic-version=3,virtualization=on", "-cpu", "cortex-a76")
OPTIONS = [*MACHINE, "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]

#: Linux without a root file system: it says so and restarts, which ends QEMU (-no-reboot).
END = "Unable to mount root fs"


@pytest.fixture(scope="module")
def kernel() -> Path:
    return Software().kernel_file()


def boot(memory: int, kernel: Path, at: int, initrd: Path, initrd_at: int, *loading: str) -> str:
    modules = [
        f"guest-loader,addr={at:#x},kernel={kernel},bootargs=console=ttyAMA0 panic=-1",
        f"guest-loader,addr={initrd_at:#x},initrd={initrd}",
    ]
    arguments = [*loading, *(part for module in modules for part in ("-device", module))]
    done = subprocess.run(
        [PROGRAM, *OPTIONS, "-m", str(memory), *arguments],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        errors="replace",
        timeout=TIMEOUT,
    )
    return done.stdout


def check(console: str) -> None:
    assert "core panic" not in console, console
    assert "CPU: All CPU(s) started at EL1" in console and END in console, console[-2000:]
    assert "Initramfs unpacking failed" in console, "Linux was told of the initrd, which is none"


@pytest.fixture
def initrd(tmp_path: Path) -> Path:
    path = tmp_path / "initrd"
    path.write_bytes(b"no archive" * 1000)
    return path


@pytest.mark.parametrize(
    "memory, kernel_at, initrd_at",
    [
        (512, RAM + 160 * MIB, RAM + 256 * MIB),
        (512, RAM + 161 * MIB + 0x1008, RAM + 256 * MIB + 1),  # not where a kernel may run: moved
        (3072, RAM + 4 * MIB, RAM + 256 * MIB),  # where the core's frames would be
        (512, RAM + 485 * MIB, RAM + 256 * MIB),  # its memory would end beyond RAM: moved
        (512, RAM + 64 * MIB, RAM + 92 * MIB),  # the initrd lies in the kernel's own memory: moved
    ],
)
def test_kernel_and_initrd(kernel: Path, initrd: Path, memory: int, kernel_at: int, initrd_at: int):
    core = build("gz.core").image.flat
    console = boot(memory, kernel, kernel_at, initrd, initrd_at, "-kernel", str(core))
    check(console)


@pytest.mark.parametrize("core_at", [RAM + 4 * MIB, RAM + 510 * MIB, RAM + 990 * MIB])
def test_core(kernel: Path, initrd: Path, tmp_path: Path, core_at: int):
    """At any 2 MiB boundary; the tree is where QEMU puts it for firmware, at the start of RAM."""
    stub = tmp_path / "stub"
    # movz x0, #0x4000, lsl #16; ldr x1, .+12; br x1; nop; the core's address
    stub.write_bytes(struct.pack("<4IQ", 0xD2A8_0000, 0x5800_0061, 0xD61F_0020, 0xD503_201F, core_at))
    core = build("gz.core").image.flat
    loading = ["-device", f"loader,file={core},addr={core_at:#x},force-raw=on"]
    loading += ["-device", f"loader,file={stub},addr={RAM + 800 * MIB:#x},force-raw=on"]
    loading += ["-device", f"loader,addr={RAM + 800 * MIB:#x},cpu-num=0"]
    console = boot(1024, kernel, RAM + 160 * MIB, initrd, RAM + 256 * MIB, *loading)
    assert f"gz: core at {core_at:#x}, " in console
    check(console)
