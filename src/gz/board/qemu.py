# SPDX-License-Identifier: Apache-2.0
"""The QEMU process of a board: its command line, its sockets, its start and its end."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from gz.abi.boot import GUESTS_MAX
from gz.board.errors import BoardError

PROGRAM = "qemu-system-aarch64"
# The architected algorithm of pointer authentication costs an emulator half its speed.
CPU_OPTIONS = {"max": "max,pauth-impdef=on"}
CPU_MODELS = ("cortex-a76", "cortex-a72", "neoverse-n1", "max")
MiB = 1 << 20

# QEMU's virt machine (hw/arm/virt.c) has RAM from 1 GiB. With -kernel it puts an arm64 Image 2 MiB above the
# start and the device tree 128 MiB above it (hw/arm/boot.c); the boot modules of the core lie above both.
RAM = 0x4000_0000
CORE = RAM + 2 * MiB
HOST_KERNEL = RAM + 160 * MiB
HOST_INITRD = RAM + 256 * MiB
MODULE_ALIGNMENT = 2 * MiB
KERNEL_ROOM = HOST_INITRD - HOST_KERNEL
SMALLEST_MEMORY = 768  # MiB

PR_SET_PDEATHSIG = 1
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
START_TIMEOUT = 20.0  # seconds, until QEMU itself listens
QUIT_TIMEOUT = 5.0


@dataclass(frozen=True)
class Disk:
    """A raw image of the user; the host VM knows it by `serial` (at most 20 characters)."""

    path: Path
    serial: str
    read_only: bool = False


@dataclass(frozen=True)
class BootGuest:
    """A guest that the core itself starts, out of boot modules: arm64 Image, initramfs, `memory` in MiB."""

    name: str
    kernel: Path
    initrd: Path | None = None
    memory: int = 128
    cpus: int = 1
    params: str = ""

    @property
    def bootargs(self) -> str:
        """As the core takes it apart (core/discovery.py)."""
        return f"vm={self.name} mem={self.memory} cpus={self.cpus} {self.params}".rstrip()

    @property
    def size(self) -> int:
        """Bytes of RAM that its modules and its memory take at most."""
        files = [self.kernel, *([self.initrd] if self.initrd else [])]
        return self.memory * MiB + sum(behind(0, file) for file in files) + MODULE_ALIGNMENT


@dataclass(frozen=True)
class Machine:
    """What is emulated. `memory` in MiB. Without `core` the host kernel is entered by QEMU itself, at EL2.

    gdb attaches at the TCP port `gdb`, without one at the socket `gdb` of the board's directory; `halted` waits for it
    before the first instruction."""

    kernel: Path
    initrd: Path
    bootargs: str = "console=ttyAMA0 panic=-1"
    core: Path | None = None
    cpus: int = 2
    memory: int = 2048
    cpu: str = "cortex-a76"
    disks: Sequence[Disk] = ()
    icount: bool = False
    virtualization: bool = True
    gdb: int | None = None
    halted: bool = False
    guests: Sequence[BootGuest] = ()

    def options(self) -> list[str]:
        """The options that say what is measured; no paths."""
        machine = f"virt,gic-version=3,virtualization={'on' if self.virtualization else 'off'}"
        cpu = CPU_OPTIONS.get(self.cpu, self.cpu)
        options = ["-M", machine, "-cpu", cpu, "-smp", str(self.cpus), "-m", str(self.memory)]
        if self.icount:
            options += ["-icount", "shift=0", "-seed", "1"]
        return options

    def arguments(self, directory: Path) -> list[str]:
        """The whole command line; sockets and the console's log go into `directory`."""
        console = f"path={quoted(directory / 'console')},logfile={quoted(directory / 'console.log')}"
        control = f"path={quoted(directory / 'control')}"
        settings = [
            ("-display", "none"),
            ("-qmp", f"unix:{quoted(directory / 'qmp')},server=on,wait=off"),
            ("-chardev", f"socket,id=console,{console},server=on,wait=off"),
            ("-serial", "chardev:console"),
            ("-chardev", f"socket,id=control,{control},server=on,wait=off"),
            ("-device", "virtio-serial-device"),
            ("-device", "virtserialport,chardev=control,name=gz.agent"),
            ("-object", "rng-builtin,id=entropy"),
            ("-device", "virtio-rng-device,rng=entropy"),
        ]
        if self.gdb is None:
            settings.append(("-gdb", f"unix:{quoted(directory / 'gdb')},server=on,wait=off"))
        else:
            settings.append(("-gdb", f"tcp:127.0.0.1:{self.gdb}"))
        for number, disk in enumerate(self.disks):
            access = "read-only=on" if disk.read_only else "read-only=off"
            drive = f"if=none,id=disk{number},format=raw,file={quoted(disk.path)},{access}"
            settings += [
                ("-drive", drive),
                ("-device", f"virtio-blk-device,drive=disk{number},serial={disk.serial}"),
            ]
        settings += self._boot()
        flat = [word for setting in settings for word in setting]
        options = [*self.options(), "-S"] if self.halted else self.options()
        return [*options, "-nodefaults", "-no-user-config", "-no-reboot", *flat]

    def _boot(self) -> list[tuple[str, str]]:
        if self.core is None:
            return [
                ("-kernel", str(self.kernel)),
                ("-initrd", str(self.initrd)),
                ("-append", self.bootargs),
            ]
        kernel = f"kernel={quoted(self.kernel)},bootargs={quoted(self.bootargs)}"
        return [
            ("-kernel", str(self.core)),
            ("-device", f"guest-loader,addr={HOST_KERNEL:#x},{kernel}"),
            ("-device", f"guest-loader,addr={HOST_INITRD:#x},initrd={quoted(self.initrd)}"),
            *self._guests(),
        ]

    def _guests(self) -> Iterator[tuple[str, str]]:
        """Behind the host's modules; each ramdisk behind its kernel, which is how the core knows whose it is."""
        at = behind(HOST_INITRD, self.initrd)
        for guest in self.guests:
            kernel = f"kernel={quoted(guest.kernel)},bootargs={quoted(guest.bootargs)}"
            yield "-device", f"guest-loader,addr={at:#x},{kernel}"
            at = behind(at, guest.kernel)
            if guest.initrd is not None:
                yield "-device", f"guest-loader,addr={at:#x},initrd={quoted(guest.initrd)}"
                at = behind(at, guest.initrd)


def behind(address: int, file: Path) -> int:
    """Where the next module may lie."""
    return -(-(address + file.stat().st_size) // MODULE_ALIGNMENT) * MODULE_ALIGNMENT


def quoted(value: object) -> str:
    """QEMU's option lists end a value at a comma unless it is doubled."""
    return str(value).replace(",", ",,")


def require_qemu() -> str:
    """The path of QEMU; BoardError if it is not installed."""
    path = shutil.which(PROGRAM)
    if path is None:
        raise BoardError(f"{PROGRAM} is not installed: apt install qemu-system-arm")
    return path


def qemu_version() -> str:
    """As QEMU itself says it, with the distribution's in brackets."""
    done = subprocess.run([require_qemu(), "--version"], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    return done.stdout.partition("\n")[0].removeprefix("QEMU emulator version ")


def available_memory() -> int:
    """MiB that this machine can give now (proc(5), MemAvailable)."""
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) // 1024
    return 0


def check(machine: Machine) -> None:
    """Refuse what cannot be emulated here, before anything is started."""
    if machine.cpu not in CPU_MODELS:
        raise BoardError(f"no CPU model {machine.cpu!r}; choose one of {', '.join(CPU_MODELS)}")
    if not 1 <= machine.cpus <= 8:
        raise BoardError(f"{machine.cpus} CPUs: the board has 1 to 8")
    initrd = machine.initrd.stat().st_size
    if machine.guests and not machine.core:
        raise BoardError("guests that the core starts need the core")
    if len(machine.guests) > GUESTS_MAX:
        raise BoardError(f"{len(machine.guests)} guests: the core starts up to {GUESTS_MAX}")
    guests = sum(guest.size for guest in machine.guests)
    smallest = max(SMALLEST_MEMORY, (HOST_INITRD - RAM + 3 * initrd) // MiB) + guests // MiB
    if machine.memory < smallest:
        raise BoardError(f"{machine.memory} MiB are too little for the board; it needs at least {smallest}")
    available = available_memory()
    if machine.memory > available:
        raise BoardError(f"the board needs {machine.memory} MiB of memory and this machine has {available} left")
    if machine.core and machine.kernel.stat().st_size > KERNEL_ROOM:
        raise BoardError(f"{machine.kernel} is larger than {KERNEL_ROOM // MiB} MiB")


class Qemu:
    """One running QEMU. `directory` holds its sockets and the console's log and goes away with it."""

    def __init__(self, machine: Machine, *, survive: bool = False) -> None:
        """With `survive` the process outlives this one; otherwise it dies with it, however that ends."""
        check(machine)
        program = require_qemu()
        self.machine = machine
        with undisturbed():
            self.directory = Path(tempfile.mkdtemp(prefix="gz-board-"))
            try:
                with (self.directory / "errors").open("wb") as errors:
                    self.process = subprocess.Popen(
                        [program, *machine.arguments(self.directory)],
                        stdin=subprocess.DEVNULL,
                        stdout=subprocess.DEVNULL,
                        stderr=errors,
                        start_new_session=True,
                        preexec_fn=child_set_up(survive),
                    )
            except BaseException:
                shutil.rmtree(self.directory, ignore_errors=True)
                raise
        try:
            for name in ("qmp", "console", "control"):
                self._wait_for(self.directory / name)
        except BaseException:
            self.stop()
            raise

    @property
    def control(self) -> Path:
        return self.directory / "control"

    @property
    def console(self) -> Path:
        return self.directory / "console"

    def console_text(self) -> str:
        """What the serial console has printed so far."""
        try:
            return (self.directory / "console.log").read_bytes().decode(errors="replace")
        except OSError:
            return ""

    def running(self) -> bool:
        return self.process.poll() is None

    def complaint(self) -> str:
        """QEMU's own last words."""
        try:
            lines = (self.directory / "errors").read_text(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1].removeprefix(f"{PROGRAM}: ") if lines else "no reason given"

    def stop(self) -> None:
        """End the process, flushing the disks, and remove its directory. Does nothing the second time."""
        with undisturbed():
            if self.running():
                try:
                    command(self.directory / "qmp", "quit", timeout=QUIT_TIMEOUT)
                    self.process.wait(QUIT_TIMEOUT)
                except (BoardError, subprocess.TimeoutExpired):
                    self.process.kill()
            self.process.wait()
            shutil.rmtree(self.directory, ignore_errors=True)

    def _wait_for(self, path: Path) -> None:
        """Until QEMU takes connections there; the file exists a moment before it does."""
        deadline = time.monotonic() + START_TIMEOUT
        while not listening(path):
            if not self.running():
                raise BoardError(f"QEMU did not start: {self.complaint()}")
            if time.monotonic() > deadline:
                raise BoardError(f"QEMU did not start within {START_TIMEOUT:g} s")
            time.sleep(0.02)


def listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(str(path)) == 0


def command(path: Path, name: str, *, timeout: float = QUIT_TIMEOUT, **arguments: Any) -> Any:
    """One QMP command over the socket at `path`; its result. BoardError if there is no answer."""

    async def converse() -> Any:
        client = QMPClient("board")
        async with asyncio.timeout(timeout):
            await client.connect(str(path))
            try:
                return await client.execute(name, arguments or None)
            finally:
                await client.disconnect()

    try:
        return asyncio.run(converse())
    except (QMPError, OSError, TimeoutError, EOFError) as error:
        raise BoardError(f"QEMU does not answer to {name}: {error or type(error).__name__}") from None


def physical_memory(directory: Path, offset: int, size: int) -> bytes:
    """Bytes of the core's image as they are in the memory of the QEMU whose sockets lie in `directory`.

    All CPUs stand still meanwhile."""
    saved = directory / "memory"
    runs = command(directory / "qmp", "query-status")["running"]
    command(directory / "qmp", "stop")
    try:
        command(directory / "qmp", "pmemsave", val=CORE + offset, size=size, filename=str(saved))
        return saved.read_bytes()
    finally:
        saved.unlink(missing_ok=True)
        if runs:
            command(directory / "qmp", "cont")


@contextmanager
def undisturbed() -> Generator[None]:
    """Signals that would end this process wait until the block is done: it must not be left half way."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def scratch_directory() -> Generator[Path]:
    """A directory for files that end with the block."""
    with undisturbed():
        path = Path(tempfile.mkdtemp(prefix="gz-run-"))
    try:
        yield path
    finally:
        with undisturbed():
            shutil.rmtree(path, ignore_errors=True)


def child_set_up(survive: bool) -> Callable[[], None]:
    """For the child of a fork: signals as usual and, unless it shall survive, its parent's end is its own.

    The kernel kills it then (prctl(2), PR_SET_PDEATHSIG)."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def set_up() -> None:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        if not survive:
            prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os._exit(1)

    return set_up
