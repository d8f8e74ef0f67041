# SPDX-License-Identifier: Apache-2.0
"""`gz run`: board, core, host and guest from nothing to the guest's exit status."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from gz.board.board import Board
from gz.board.channel import Channel, Process
from gz.board.errors import BoardError
from gz.board.guest import command_archive, guest_initrd, guest_kernel, terminal_archive
from gz.board.host_vm import HostSoftware, Software
from gz.board.images import refused
from gz.board.qemu import Disk, Machine, require_qemu, scratch_directory
from gz.board.vmm import LOUD, NOWHERE, QUIET, TO_ERRORS, Guest, resize_console, start_command, start_console
from gz.board.wire import Kind
from gz.cli import firmware, inputs, products
from gz.cli.board import connect, fitting
from gz.cli.firmware import INITRD, KERNEL
from gz.cli.report import Steps, UserError, progress
from gz.cli.terminal import Typing, raw_terminal, size
from gz.vmm.maps import MAPS, Uart
from gz.vmm.terminal import Size

BOARD_MEMORY = 2048  # MiB
HOST_SHARE = 1024  # MiB that the host, its file system and the core have beside the guest
SIGNALLED = 128
END_TIMEOUT = 10.0  # seconds
FIRMWARE = "gz-firmware"
VARIABLES = "gz-variables"
"""Disks, as KERNEL and INITRD are others."""
TTYS = {Uart.PL011: "ttyAMA0", Uart.UART_8250: "ttyS0"}
"""What Linux calls them."""


@dataclass(frozen=True)
class Request:
    """What the user asked for, as written."""

    argv: tuple[str, ...]
    cpus: int
    mem: str
    kernel: Path | None
    initrd: Path | None
    disks: tuple[str, ...]
    params: str
    protected: bool = False
    machine: str = "virt"
    firmware: Path | None = None
    variables: Path | None = None
    pvmfw: str | None = None


def run_guest(request: Request, *, cpu: str, host_cpus: int, gdb: int | None, verbose: bool) -> int:
    """The guest's exit status; 0 after a shell."""
    if request.protected and not request.kernel:
        raise UserError(
            "Debian's kernel cannot be protected: its devices need a restricted DMA pool; give your own by --kernel"
        )
    if request.pvmfw and not request.protected:
        raise UserError("--pvmfw is for protected guests; add --protected")
    if request.protected and request.firmware:
        raise UserError("what is in the flash is no secret, so a protected guest has none; leave --firmware away")
    pvmfw = firmware.given(request.pvmfw)
    require_qemu()
    inputs.room()
    memory = inputs.memory(request.mem)
    machine = MAPS[request.machine]
    # What is not Linux gets its command line as written, and no file system that it did not ask for.
    linux = request.firmware is None
    if request.kernel:
        linux = inputs.kernel(request.kernel, machine, memory)
    if request.firmware:
        inputs.firmware(request.firmware, machine, request.kernel)
        if request.initrd and not request.kernel:
            raise UserError("without --kernel firmware takes its files from a disk; leave --initrd away")
    elif request.variables:
        raise UserError("--vars is for --firmware: nothing else stores variables")
    kernel = request.kernel and request.kernel.absolute()
    initrd = request.initrd and inputs.initrd(request.initrd)
    inputs.fit(memory, kernel, initrd)
    disks = [inputs.disk(text, number) for number, text in enumerate(request.disks)]
    stores: list[Disk] = []
    if request.firmware and request.variables:
        stores.append(inputs.variables(request.variables, request.firmware, machine, VARIABLES))
    port = None if gdb is None else inputs.port(gdb)
    if request.argv and not linux:
        raise UserError("a command needs Linux; leave --kernel or --firmware away, or the command")
    if request.argv and initrd:
        raise UserError("a command needs the root file system of gz; leave --initrd away, or the command")

    with scratch_directory() as scratch, progress() as step:
        step("compiling the core")
        core, driver = products.core(), products.libraries()
        step("fetching Debian packages")
        software = Software()
        step("building the guest's file system")
        files = guest_files(request, linux, software, scratch)
        consoles = (LOUD if verbose else QUIET).replace("ttyAMA0", TTYS[machine.uart_kind])
        guest = Guest(
            cpus=request.cpus,
            memory=memory,
            params=f"{consoles} {request.params}".strip() if linux else request.params,
            disks=[f"{disk.serial},ro" if disk.read_only else disk.serial for disk in disks],
            protected=request.protected,
            machine=machine.name,
            pvmfw=request.pvmfw is not None,
        )
        if request.pvmfw == firmware.VERIFY:
            step("measuring what the guest starts from")
            pvmfw = firmware.promise(guest, files, bool(request.argv), scratch)
        if pvmfw is not None:
            core = firmware.carried(core, pvmfw, scratch)
        needed = memory + HOST_SHARE
        standing = (
            None if disks or stores or port is not None else reach(core, software.host(driver), host_cpus, cpu, needed)
        )
        if standing is not None:
            step("the board that is up is used")
            host, log = standing
            with host, copied(host, files) as given, Follower(log, verbose):
                return live(host, with_files(guest, given), request.argv, step, verbose)
        board = Board(
            core=core,
            compiled=driver,
            software=software,
            cpus=host_cpus,
            cpu=cpu,
            gdb=port,
            memory=max(BOARD_MEMORY, needed),
            disks=[*files, *disks, *stores],
            progress=step,
        )
        with board, Follower(board.qemu.directory / "console.log", verbose):
            guest = with_files(guest, {disk.serial: board.disk(disk.serial) for disk in files})
            guest = replace(
                guest,
                variables=board.disk(VARIABLES) if stores else None,
                disks=[board.disk(disk.serial) + (",ro" if disk.read_only else "") for disk in disks],
            )
            return live(board.host, guest, request.argv, step, verbose)


def with_files(guest: Guest, given: Mapping[str, str]) -> Guest:
    """`given`: the host VM's names of what the guest starts from."""
    return replace(guest, kernel=given.get(KERNEL), initrd=given.get(INITRD), firmware=given.get(FIRMWARE))


def reach(core: Path, host: HostSoftware, cpus: int, cpu: str, memory: int) -> tuple[Channel, Path] | None:
    """The host VM of a board of this kind that is up and answers, and its console's log; None without."""
    record = fitting(Machine(host.kernel, host.initrd, core=core, cpus=cpus, memory=memory, cpu=cpu))
    if record is None:
        return None
    try:
        return connect(record), record.path / "console.log"
    except BoardError:
        return None  # somebody else is attached


@contextmanager
def copied(host: Channel, files: Sequence[Disk]) -> Generator[dict[str, str]]:
    """The host VM's copies of files, by their serials."""
    directory = f"/run/gz-run-{os.getpid()}"
    try:
        for file in files:
            host.put(f"{directory}/{file.serial}", file.path.read_bytes())
        yield {file.serial: f"{directory}/{file.serial}" for file in files}
    finally:
        with suppress(BoardError):
            host.run(["rm", "-rf", directory])


def live(host: Channel, guest: Guest, argv: Sequence[str], step: Steps, verbose: bool) -> int:
    """The guest from start to end, which nothing of it outlives; the exit status."""
    step("starting the guest")
    if argv:
        process = start_command(host, guest, TO_ERRORS if verbose else NOWHERE)
        step(f"running {argv[0]} in the guest")
    else:
        process = start_resized_console(host, guest)
        step("booting the guest; Ctrl-A x powers it off")
    try:
        return pump(process, step, interactive=not argv)
    finally:
        if process.status is None:
            with suppress(BoardError, TimeoutError):
                process.signal(signal.SIGTERM)
                process.wait(END_TIMEOUT)


def start_resized_console(host: Channel, guest: Guest) -> Process:
    """On this process's terminal, if it has one, whose size the guest then knows."""
    if not sys.stdin.isatty():
        return start_console(host, guest)
    size = Size(lambda: os.get_terminal_size(0))
    process = start_console(host, guest, size.columns_rows)

    def tell() -> None:
        with suppress(BoardError):  # which others notice too
            resize_console(host, process, size.columns_rows)

    size.when_changed(tell)
    return process


def guest_files(request: Request, linux: bool, software: Software, scratch: Path) -> list[Disk]:
    """What the guest starts from; for Linux with Debian's kernel and our file system where none are named."""
    initrd = request.initrd
    if linux and initrd is None:
        initrd = own_initrd(request.argv, software, scratch)
    kernel = request.kernel
    if kernel is None and request.firmware is None:
        kernel = guest_kernel(software)
    files = {KERNEL: kernel, INITRD: initrd, FIRMWARE: request.firmware}
    return [Disk(path.absolute(), serial, True) for serial, path in files.items() if path is not None]


def own_initrd(argv: Sequence[str], software: Software, directory: Path) -> Path:
    """The default root file system with this run's command, or the size of the terminal, appended."""
    extra = command_archive(argv) if argv else terminal_archive(*size())
    path = directory / "initrd"
    try:
        path.write_bytes(guest_initrd(software).read_bytes() + extra)
    except OSError as error:
        raise refused(path, error) from None
    return path


def pump(process: Process, step: Steps, *, interactive: bool) -> int:
    """The guest's command or console on this process's standard streams, byte for byte; the exit status.

    With `interactive` and a terminal its keys go to the guest as they are, but for Ctrl-A."""
    with ExitStack() as stack:
        typing: Typing | None = None

        def send(data: bytes) -> None:
            if data:
                process.write(data)
            elif not keys:
                process.end_input()

        def begin() -> None:
            # Not before the guest speaks: until then Ctrl-C ends everything at once.
            nonlocal typing, keys
            step.stop()
            keys = interactive and stack.enter_context(raw_terminal())
            typing = Typing(send, leave=lambda: process.signal(signal.SIGTERM), keys=keys)
            stack.callback(typing.stop)

        keys = False
        if not interactive:
            # A command may wait for its input before it says anything.
            typing = Typing(send, leave=lambda: None, keys=False)
            stack.callback(typing.stop)
        for kind, data in process.events():
            step.stop()
            if typing is None:
                begin()
            stream = sys.stdout if kind is Kind.OUTPUT else sys.stderr
            stream.buffer.write(data)
            stream.buffer.flush()
        left = typing is not None and typing.left
    status = exit_status(process)
    return 0 if left else status


def exit_status(process: Process) -> int:
    """As a shell would say it."""
    assert process.status is not None
    return process.status if process.status >= 0 else SIGNALLED - process.status


class Follower:
    """Copies the `log` of a board's serial console to standard error while that runs."""

    INTERVAL = 0.1  # seconds

    def __init__(self, log: Path, enabled: bool) -> None:
        self.log = log
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._work, name="console", daemon=True) if enabled else None

    def __enter__(self) -> None:
        if self.thread:
            self.thread.start()

    def __exit__(self, *_: object) -> None:
        self.over.set()
        if self.thread:
            self.thread.join()

    def _work(self) -> None:
        with self.log.open("rb") as log:
            while True:
                last = self.over.is_set()
                while data := log.read(4096):
                    sys.stderr.buffer.write(data)
                    sys.stderr.buffer.flush()
                if last:
                    return
                time.sleep(self.INTERVAL)
