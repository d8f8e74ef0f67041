# SPDX-License-Identifier: Apache-2.0
"""A board that stays between commands. Its record in the state directory says where its sockets are."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from gz.board.channel import Channel
from gz.board.errors import BoardError
from gz.board.images import cached, fingerprint, write_whole
from gz.board.qemu import PROGRAM, SMALLEST_MEMORY, BootGuest, Machine, command, require_qemu
from gz.board.wire import Kind
from gz.cli import inputs
from gz.cli.report import UserError, progress, say
from gz.cli.terminal import Typing, raw_terminal, size
from gz.state import state_directory
from gz.vmm.kernel import unpack
from gz.vmm.loader import LoadError
from gz.vmm.terminal import Size

NONE_UP = "no board is up; start one with: gz board up"
PAYLOAD = "payload:"
ANSWER_TIMEOUT = 10.0  # seconds
END_TIMEOUT = 5.0


@dataclass(frozen=True)
class Record:
    """`directory` holds the sockets; `pid` is QEMU's."""

    pid: int
    directory: str
    options: list[str]
    core: bool
    boots: str = ""
    """`boots` of its machine."""

    @property
    def path(self) -> Path:
        return Path(self.directory)

    def alive(self) -> bool:
        try:
            return PROGRAM.encode() in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except OSError:
            return False


def record_file() -> Path:
    return state_directory() / "board.json"


def current() -> Record | None:
    """The board that is up. A record whose board has died is cleared away."""
    try:
        record = Record(**json.loads(record_file().read_text()))
    except FileNotFoundError:
        return None
    except (ValueError, TypeError):
        raise UserError(f"{record_file()} is damaged; remove it") from None
    if record.alive():
        return record
    forget(record)
    return None


def boots(machine: Machine) -> str:
    """What a board starts from; the names of these files stand for their contents."""
    return " ".join(map(str, (machine.core, machine.kernel, machine.initrd, *machine.guests)))


def fitting(wanted: Machine) -> Record | None:
    """The board that is up, if it is the one that is wanted or one with more memory."""
    record = current()
    if record is None or record.boots != boots(wanted):
        return None
    ours, theirs = wanted.options(), list(record.options)
    at = ours.index("-m") + 1
    if len(ours) != len(theirs) or int(theirs[at]) < int(ours[at]):
        return None
    theirs[at] = ours[at]
    return record if ours == theirs else None


def required() -> Record:
    record = current()
    if record is None:
        raise UserError(NONE_UP)
    return record


def forget(record: Record) -> None:
    shutil.rmtree(record.path, ignore_errors=True)
    record_file().unlink(missing_ok=True)


def start_board(*, cpu: str, cpus: int, memory: str, bare: bool, gdb: int | None, guests: Sequence[str]) -> int:
    if current():
        raise UserError("a board is up already; see gz board status, or end it with gz board down")
    require_qemu()
    inputs.room()
    megabytes = inputs.memory(memory, SMALLEST_MEMORY)
    port = None if gdb is None else inputs.port(gdb)
    asked = [inputs.boot_guest(text) for text in guests]
    if asked and bare:
        raise UserError("--vm and --bare: it is the core that starts such guests")
    from gz.board.board import Board

    with progress() as step:
        core, compiled = None, {}
        if not bare:
            from gz.cli import products

            step("compiling the core")
            core, compiled = products.core(), products.libraries()
        board = Board(
            core=core,
            compiled=compiled,
            cpu=cpu,
            cpus=cpus,
            memory=megabytes,
            gdb=port,
            survive=True,
            guests=[boot_guest(*guest) for guest in asked],
            progress=step,
        )
        try:
            record = Record(
                board.qemu.process.pid,
                str(board.qemu.directory),
                board.machine.options(),
                not bare,
                boots(board.machine),
            )
            write_whole(record_file(), json.dumps(asdict(record)).encode())
            board.host.close()
        except BaseException:
            board.stop()
            record_file().unlink(missing_ok=True)
            raise
    say("the board is up; gz board console attaches to it, gz board down ends it")
    return 0


def boot_guest(name: str, kernel: str, initrd: Path | None, memory: int, cpus: int, params: str) -> BootGuest:
    """Its kernel unpacked, or compiled."""
    from gz.cli import products

    if kernel.startswith(PAYLOAD):
        image = products.payload(kernel.removeprefix(PAYLOAD)).flat
    else:
        try:
            data = unpack(kernel)
        except LoadError as error:
            raise UserError(str(error)) from None
        image = cached("boot-kernel", fingerprint([hashlib.sha256(data).hexdigest()]), lambda: data)
    return BootGuest(name, image, initrd, memory, cpus, params)


def stop_board() -> int:
    record = required()
    try:
        command(record.path / "qmp", "quit")
        wait_for_end(record)
    except BoardError:
        os.kill(record.pid, signal.SIGKILL)
        wait_for_end(record)
    forget(record)
    say("the board is down")
    return 0


def wait_for_end(record: Record) -> None:
    deadline = time.monotonic() + END_TIMEOUT
    while record.alive():
        if time.monotonic() > deadline:
            raise BoardError(f"QEMU (process {record.pid}) does not end")
        time.sleep(0.02)


def print_status(as_json: bool) -> int:
    """Exit status 0 if a board is up and its host answers, 3 if there is none."""
    record = current()
    facts: dict[str, object] = {"up": record is not None}
    if record:
        facts |= {"pid": record.pid, "core": record.core, "options": " ".join(record.options)}
        with connect(record) as channel:
            facts["kernel"] = channel.run(["uname", "-r"], timeout=ANSWER_TIMEOUT).text.strip()
            facts["seconds"] = float(channel.run(["cat", "/proc/uptime"], timeout=ANSWER_TIMEOUT).text.split()[0])
    if as_json:
        print(json.dumps(facts))
    elif record is None:
        print(NONE_UP)
    else:
        print(
            f"up for {facts['seconds']:.0f} s, process {record.pid}\n"
            f"host    Linux {facts['kernel']}, {'on the core' if record.core else 'on the bare machine'}\n"
            f"board   {facts['options']}"
        )
    return 0 if record else 3


def connect(record: Record) -> Channel:
    channel = Channel(record.path / "control")
    if not channel.hello(ANSWER_TIMEOUT):
        channel.close()
        raise BoardError(f"the host VM does not answer; its last words are in {record.path / 'console.log'}")
    return channel


def execute_in_host(argv: Sequence[str]) -> int:
    """On a terminal if there is one here; the exit status is the command's."""
    with connect(required()) as channel, raw_terminal() as interactive:
        process = channel.start(
            list(argv),
            terminal=size() if interactive else None,
            env={"TERM": os.environ.get("TERM", "linux")} if interactive else None,
        )

        def send(data: bytes) -> None:
            process.write(data) if data else process.end_input()

        if interactive:
            terminal = Size(lambda: os.get_terminal_size(0))

            def tell() -> None:
                with suppress(BoardError):  # which others notice too
                    columns, rows = terminal.columns_rows
                    process.resize(rows, columns)

            terminal.when_changed(tell)
        typing = Typing(send, lambda: None, keys=False)
        try:
            for kind, data in process.events():
                stream = sys.stdout if kind is Kind.OUTPUT else sys.stderr
                stream.buffer.write(data)
                stream.buffer.flush()
        finally:
            typing.stop()
    assert process.status is not None
    return process.status if process.status >= 0 else 128 - process.status


def attach_console() -> int:
    record = required()
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with line:
        line.connect(str(record.path / "console"))
        say("attached to the host's console; Ctrl-A x leaves")
        with raw_terminal():
            typing = Typing(line.sendall, lambda: line.shutdown(socket.SHUT_RDWR), keys=True)
            try:
                while data := line.recv(4096):
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
            finally:
                typing.stop()
    return 0
