# SPDX-License-Identifier: Apache-2.0
"""Payloads on the emulated machine: bare at EL1, as the core's host, as a guest of the smallest host."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gz.board.qemu import HOST_INITRD, HOST_KERNEL, PROGRAM, physical_memory
from gz.cli.trace import STORAGE, Entry, entries
from gz.metal.build import build
from gz.metal.symbols import Symbols

TIMEOUT = 180
MODULE_SIZE = 4 << 20


def image(program: str) -> Path:
    return build(program).image.flat


#: A nanosecond for each instruction, the same every time.
COUNTED = ("-icount", "shift=0", "-seed", "1")
#: CPUs that run at the same time indeed, and never twice the same way.
RACING = ()


def command(
    cpu: str,
    cpus: int,
    arguments: Sequence[str],
    virtualization: bool,
    memory: int = 512,
    clock: Sequence[str] = COUNTED,
) -> list[str]:
    machine = f"virt,gic-version=3,virtualization={'on' if virtualization else 'off'}"
    if cpu.startswith("max"):
        machine += ",mte=on"  # all there is
    options = ["-machine", machine, "-cpu", cpu, "-smp", str(cpus), "-m", str(memory)]
    options += [*clock, "-nodefaults", "-no-reboot", "-display", "none", "-serial", "stdio"]
    return [PROGRAM, *options, *arguments]


def emulate(
    cpu: str,
    cpus: int,
    arguments: Sequence[str],
    virtualization: bool,
    memory: int = 512,
    clock: Sequence[str] = COUNTED,
) -> list[str]:
    """The lines on the serial port until the machine is off. A core that hangs is a subprocess.TimeoutExpired."""
    done = subprocess.run(
        command(cpu, cpus, arguments, virtualization, memory, clock),
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


def as_host(payload: str, initrd: Path | None = None, core: Path | None = None) -> list[str]:
    kernel = image(f"payloads.{payload}")
    arguments = ["-kernel", str(core or image("gz.core"))]
    arguments += ["-device", f"guest-loader,addr={HOST_KERNEL:#x},kernel={kernel},bootargs=quiet"]
    return [*arguments, "-device", f"guest-loader,addr={HOST_INITRD:#x},initrd={initrd or kernel}"]


def host(
    payload: str,
    initrd: Path | None = None,
    cpu: str = "cortex-a76",
    cpus: int = 1,
    memory: int = 512,
    core: Path | None = None,
    guests: Sequence[tuple[str, Path]] = (),
    clock: Sequence[str] = COUNTED,
) -> list[str]:
    """As the host of the core. Without the core's own lines, which begin with its name.

    `guests`: arguments and images of boot modules that the core starts by itself."""
    arguments = as_host(payload, initrd, core)
    for number, (bootargs, module) in enumerate(guests):
        at = HOST_INITRD + (1 + number) * MODULE_SIZE
        arguments += ["-device", f"guest-loader,addr={at:#x},kernel={module},bootargs={bootargs}"]
    lines = emulate(cpu, cpus, arguments, True, memory, clock)
    return [line for line in lines if not line.startswith("gz: core at")]


def traced(payload: str, directory: Path, cpu: str = "cortex-a76") -> list[list[Entry]]:
    """The core's trace at each line "look" of the host, which then waits for a byte; QEMU's socket in `directory`."""
    arguments = [*as_host(payload), "-qmp", f"unix:{directory / 'qmp'},server=on,wait=off"]
    machine = subprocess.Popen(
        command(cpu, 1, arguments, virtualization=True),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    place = Symbols(build("gz.core").image.elf).object(STORAGE)
    found: list[list[Entry]] = []
    with machine:
        try:
            assert machine.stdin is not None and machine.stdout is not None
            for line in machine.stdout:
                if line.strip() == "look":
                    found.append(entries(physical_memory(directory, *place)))
                    machine.stdin.write("\n")
                    machine.stdin.flush()
                else:
                    assert line.strip() == "" or line.startswith("gz: core at"), line
        finally:
            machine.kill()
    return found


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
