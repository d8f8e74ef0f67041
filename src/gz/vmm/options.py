# SPDX-License-Identifier: Apache-2.0
"""The command line of `python3 -m gz.vmm`."""

from __future__ import annotations

import argparse
import fcntl
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from gz.abi.calls import VCPUS_MAX
from gz.abi.exits import Watch
from gz.abi.memory import BLOCK_SIZE
from gz.driver.transport import AUTO, TRANSPORTS
from gz.vmm.machine import Plan
from gz.vmm.maps import MAPS, VIRT
from gz.vmm.streams import Output
from gz.vmm.virtio.console import Port

WATCHES = {kind.name.lower(): kind for kind in Watch}
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MEMORY_MIN = 16 << 20
STATUS = "status"


class UsageError(Exception):
    """An option that makes no sense; the text says which and why."""


@dataclass(frozen=True)
class PortOption:
    """`kind`: in, out, fd or status; `target`: a path or a number."""

    name: str
    kind: str
    target: str


@dataclass(frozen=True)
class Options:
    plan: Plan
    ports: list[PortOption]
    consoles: Sequence[str]
    """Those that `plan.params` name."""
    transport: str = AUTO
    size_file: str | None = None


def parse(arguments: list[str] | None = None) -> Options:
    """Exits with status 2 and a line of explanation for what is not valid."""
    parser = argparse.ArgumentParser(prog="gz.vmm", description="Runs a guest on the core below this host, or on KVM.")
    parser.add_argument(
        "--machine", choices=tuple(MAPS), default=VIRT.name, help="where RAM and devices lie (default virt)"
    )
    parser.add_argument(
        "--kernel", metavar="FILE", help="arm64 Linux Image (plain, gzip or EFI zboot), ELF file or raw binary"
    )
    parser.add_argument(
        "--firmware", metavar="FILE", help="what is in the flash, and starts the kernel if there is one by fw_cfg"
    )
    parser.add_argument(
        "--vars",
        metavar="FILE",
        help="where firmware stores its variables, made on first use; else they last as long as the guest",
    )
    parser.add_argument("--initrd", metavar="FILE")
    parser.add_argument("--cpus", type=int, default=1, metavar="N", help=f"1 to {VCPUS_MAX}")
    parser.add_argument("--mem", default="256M", metavar="SIZE", help="with K, M or G (default 256M)")
    parser.add_argument("--params", default="", metavar="TEXT", help="kernel command line")
    parser.add_argument("--disk", action="append", default=[], metavar="FILE[,ro]", help="raw image; repeat for more")
    parser.add_argument(
        "--protected",
        action="store_true",
        help="its memory is the guest's alone, which has to share what devices use: stock kernels do not",
    )
    parser.add_argument(
        "--pvmfw",
        action="store_true",
        help="protected, and started by the firmware that the core has for it",
    )
    parser.add_argument(
        "--watch",
        default="",
        metavar="KINDS",
        help="print a line for each of these exceptions of the guest: " + ", ".join(WATCHES),
    )
    parser.add_argument(
        "--port",
        action="append",
        default=[],
        metavar="NAME=SPEC",
        help="a virtio-serial port: in:PATH the guest reads, out:PATH it writes, fd:N (read or written as N"
        " was opened), status: the decimal number the guest writes is the exit status",
    )
    parser.add_argument(
        "--transport",
        choices=(AUTO, *TRANSPORTS),
        default=AUTO,
        help="what carries the guest: the core by its doorbell or by the kernel's gzvm driver, or this kernel's KVM;"
        " auto takes the first of them that there is",
    )
    parser.add_argument(
        "--size-file",
        metavar="FILE",
        help="columns and rows of the terminal that the guest's console is shown on, read again at each SIGWINCH; not"
        " needed if standard input is that terminal",
    )
    given = parser.parse_args(arguments)
    try:
        if given.firmware is None and given.kernel is None:
            raise UsageError("one of --kernel and --firmware is needed")
        if given.kernel is None and given.initrd is not None:
            raise UsageError("--initrd goes with --kernel; without one firmware takes its files from a disk")
        if given.firmware is None and given.vars is not None:
            raise UsageError("--vars goes with --firmware: nothing else stores variables")
        if given.firmware is not None and given.pvmfw:
            raise UsageError("--pvmfw starts a kernel, not what is in the flash")
        plan = Plan(
            kernel=given.kernel,
            firmware=given.firmware,
            variables=given.vars,
            machine=MAPS[given.machine],
            initrd=given.initrd,
            cpus=_cpus(given.cpus),
            memory=_memory(given.mem),
            params=given.params,
            disks=[_disk(text) for text in given.disk],
            protected=given.protected or given.pvmfw,
            watch=_watch(given.watch),
            pvmfw=given.pvmfw,
        )
        if plan.watch and plan.protected:
            raise UsageError("--watch: nobody hears of the exceptions of a protected guest")
        ports = [_port(text) for text in given.port]
        if len({port.name for port in ports}) < len(ports):
            raise UsageError("two ports of the same name")
    except UsageError as error:
        parser.error(str(error))
    consoles = re.findall(r"(?:^|\s)console=(\w+)", given.params)
    return Options(plan, ports, consoles, given.transport, given.size_file)


def _watch(text: str) -> int:
    names = [name for name in text.split(",") if name]
    unknown = [name for name in names if name not in WATCHES]
    if unknown:
        raise UsageError(f"--watch {unknown[0]}: there are {', '.join(WATCHES)}")
    return sum({int(WATCHES[name]) for name in names})


def open_port(option: PortOption) -> Port:
    """Opens what a port is connected to. UsageError if that fails. Status ports are the caller's business."""
    try:
        fd = _open(option)
        mode = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE
    except OSError as error:
        raise UsageError(f"port {option.name}: {option.target}: {error.strerror}") from None
    readable, writable = mode in (os.O_RDONLY, os.O_RDWR), mode in (os.O_WRONLY, os.O_RDWR)
    return Port(option.name, fd if readable else None, Output(fd, option.name) if writable else None)


def _cpus(count: int) -> int:
    if not 1 <= count <= VCPUS_MAX:
        raise UsageError(f"--cpus {count}: a guest has 1 to {VCPUS_MAX}")
    return count


def _memory(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMG]?)(?:i?B)?", text, re.IGNORECASE)
    if match is None:
        raise UsageError(f"--mem {text}: expected a number, with K, M or G behind it")
    size = int(match[1]) * UNITS.get(match[2].upper(), 1)
    if size < MEMORY_MIN:
        raise UsageError(f"--mem {text}: at least {MEMORY_MIN >> 20}M")
    if size > 1 << 38:
        raise UsageError(f"--mem {text}: at most {1 << 8}G")
    return -(-size // BLOCK_SIZE) * BLOCK_SIZE


def _disk(text: str) -> tuple[str, bool]:
    path, comma, flag = text.rpartition(",")
    if comma and flag in ("ro", "rw"):
        return path, flag == "ro"
    return text, False


def _port(text: str) -> PortOption:
    name, equals, spec = text.partition("=")
    kind, _, target = spec.partition(":")
    valid = spec == STATUS or (kind in ("in", "out", "fd") and target)
    if not name or not equals or not valid:
        raise UsageError(f"--port {text}: expected NAME=in:PATH, NAME=out:PATH, NAME=fd:N or NAME=status")
    if kind == "fd" and not target.isdecimal():
        raise UsageError(f"--port {text}: {target} is not the number of a file descriptor")
    return PortOption(name, kind, target)


def _open(option: PortOption) -> int:
    if option.kind == "fd":
        return int(option.target)
    if option.kind == "in":
        return os.open(option.target, os.O_RDONLY | os.O_CLOEXEC)
    return os.open(option.target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
