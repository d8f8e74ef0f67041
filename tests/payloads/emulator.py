# SPDX-License-Identifier: Apache-2.0
"""Payloads on the emulated machine: bare at EL1, as the core's host, as a guest of the smallest host."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gz.board.qemu import HOST_INITRD, HOST_KERNEL, PROGRAM
from gz.metal.build import build

TIMEOUT = 180


def image(program: str) -> Path:
    return build(program).image.flat


def emulate(cpu: str, cpus: int, arguments: Sequence[str], virtualization: bool, memory: int = 512) -> list[str]:
    """The lines on the serial port until the machine is off. A core that hangs is a subprocess.TimeoutExpired."""
    machine = f"virt,gic-version=3,virtualization={'on' if virtualization else 'off'}"
    options = ["-machine", machine, "-cpu", cpu, "-smp", str(cpus), "-m", str(memory)]
    options += ["-icount", "shift=0", "-seed", "1", "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]
    done = subprocess.run(
        [PROGRAM, *options, *arguments],
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        timeout=TIMEOUT,
    )
    return [line for line in done.stdout.splitlines() if line]


def bare(payload: str, cpu: str = "cortex-a76", cpus: int = 1) -> list[str]:
    """Without a hypervisor, at EL1."""
    return emulate(cpu, cpus, ["-kernel", str(image(f"payloads.{payload}"))], virtualization=False)


def host(
    payload: str,
    initrd: Path | None = None,
    cpu: str = "cortex-a76",
    cpus: int = 1,
    memory: int = 512,
    core: Path | None = None,
) -> list[str]:
    """As the host of the core. Without the core's own lines, which begin with its name."""
    kernel = image(f"payloads.{payload}")
    arguments = ["-kernel", str(core or image("gz.core"))]
    arguments += ["-device", f"guest-loader,addr={HOST_KERNEL:#x},kernel={kernel},bootargs=quiet"]
    arguments += ["-device", f"guest-loader,addr={HOST_INITRD:#x},initrd={initrd or kernel}"]
    lines = emulate(cpu, cpus, arguments, virtualization=True, memory=memory)
    return [line for line in lines if not line.startswith("gz: core at")]


def guest(payload: str, cpu: str = "cortex-a76", cpus: int = 1) -> list[str]:
    """As a guest of `payloads.host`. Without that one's last line."""
    *lines, last = host("host", image(f"payloads.{payload}"), cpu, cpus)
    assert last == "host: the guest is gone", "\n".join([*lines, last])
    return lines


def counts(line: str) -> dict[str, int]:
    """ "3 read, 4 undefined" as a dictionary."""
    return {what: int(number) for number, what in re.findall(r"(\d+) ([a-z][a-z ]*)", line)}


def failed(lines: Sequence[str]) -> list[str]:
    """What a payload of checks did not pass, and what stopped it."""
    return [line for line in lines if line.startswith(("FAIL", "unexpected exception"))] or (
        [] if any(line.startswith("PASS") for line in lines) else ["no checks"]
    )
