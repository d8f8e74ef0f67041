# SPDX-License-Identifier: Apache-2.0
"""The program in the host VM that does what the command line asks through a virtio-serial port (wire.py).

Only the standard library; one thread. A client that goes away, or a new one, ends everything the old one
started."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, cast

from gz.board.wire import LIMIT, Decoder, ExecRequest, Frame, GetRequest, Kind, PutRequest

BACKLOG = 4 << 20
"""Bytes waiting for a command's standard input above which the port is no longer read."""
GROUP_END = 2.0  # seconds that killed processes get; one whom nobody reaps stays
NO_CLIENT_PAUSE = 0.05  # seconds; a port without a client polls as readable and gives no bytes


class Exec:
    """A running command."""

    def __init__(self, request: ExecRequest) -> None:
        self.backlog = bytearray()
        self.input_ended = False
        environment = {**os.environ, **request["env"]}
        self.terminal = "size" in request
        if self.terminal:
            master, slave = os.openpty()
            try:
                self.process = subprocess.Popen(
                    request["argv"],
                    stdin=slave,
                    stdout=slave,
                    stderr=slave,
                    env=environment,
                    cwd=request["cwd"],
                    start_new_session=True,
                    preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
                )
            except BaseException:
                os.close(master)
                raise
            finally:
                os.close(slave)
            self.input, self.outputs = master, {master: Kind.OUTPUT}
        else:
            self.process = subprocess.Popen(
                request["argv"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=environment,
                cwd=request["cwd"],
                start_new_session=True,
                bufsize=0,
            )
            assert self.process.stdin and self.process.stdout and self.process.stderr
            self.input = self.process.stdin.fileno()
            self.outputs = {
                self.process.stdout.fileno(): Kind.OUTPUT,
                self.process.stderr.fileno(): Kind.ERRORS,
            }
        os.set_blocking(self.input, False)

    def feed(self, data: bytes) -> None:
        """Input for the command; what comes after it closed its standard input is dropped."""
        if self.input < 0:
            return
        if data:
            self.backlog += data
        else:
            self.input_ended = True
        self.flush()

    def flush(self) -> None:
        """Hand over as much input as the command takes now."""
        if self.input < 0:
            return
        try:
            while self.backlog:
                del self.backlog[: os.write(self.input, self.backlog[:65536])]
        except BlockingIOError:
            return
        except OSError:
            self.backlog.clear()
            self.input_ended = True
        if self.input_ended and not self.terminal:
            assert self.process.stdin
            self.process.stdin.close()
            self.input = -1

    def signal(self, number: int) -> None:
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):
            pass

    def has_group(self) -> bool:
        """Whether the command or one of those it started is still there."""
        try:
            os.killpg(self.process.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def resize(self, rows: int, columns: int) -> None:
        if self.terminal:
            fcntl.ioctl(self.input, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def close(self) -> None:
        """End the command and all of its process group: when this returns they are gone, not only told to go."""
        self.signal(signal.SIGKILL)
        self.process.wait()
        end = time.monotonic() + GROUP_END
        while self.has_group() and time.monotonic() < end:
            time.sleep(0.001)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream:
                stream.close()
        if self.terminal:
            os.close(self.input)


class Put:
    """A file being written; it appears under its name when complete."""

    def __init__(self, request: PutRequest) -> None:
        self.path = Path(request["path"])
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.temporary = self.path.with_name(self.path.name + ".part")
        self.mode = request["mode"]
        self.file = self.temporary.open("wb")

    def finish(self) -> None:
        self.file.close()
        self.temporary.chmod(self.mode)
        self.temporary.replace(self.path)

    def close(self) -> None:
        self.file.close()
        self.temporary.unlink(missing_ok=True)


class Agent:
    """Serves one port."""

    def __init__(self, port: str) -> None:
        self.port = os.open(port, os.O_RDWR)
        self.decoder = Decoder()
        self.execs: dict[int, Exec] = {}
        self.puts: dict[int, Put] = {}

    def send(self, *out: Frame) -> None:
        for frame in out:
            data = memoryview(frame.encode())
            while data:
                data = data[os.write(self.port, data) :]

    def exit(self, stream: int, **result: object) -> None:
        self.send(Frame(Kind.EXIT, stream, json.dumps(result).encode()))

    def serve(self) -> None:
        while True:
            poll = select.poll()
            if all(len(e.backlog) < BACKLOG for e in self.execs.values()):
                poll.register(self.port, select.POLLIN)
            owners: dict[int, tuple[int, Exec]] = {}
            for stream, running in self.execs.items():
                for descriptor in running.outputs:
                    poll.register(descriptor, select.POLLIN)
                    owners[descriptor] = stream, running
                if running.backlog:
                    both = select.POLLIN | select.POLLOUT if running.terminal else select.POLLOUT
                    poll.register(running.input, both)
                    owners[running.input] = stream, running
            for descriptor, events in poll.poll():
                if descriptor == self.port:
                    self.receive()
                else:
                    stream, running = owners[descriptor]
                    # A new client may just have ended this one and used its number again.
                    if self.execs.get(stream) is running:
                        self.advance(descriptor, events, stream, running)

    def receive(self) -> None:
        data = os.read(self.port, 65536)
        if not data:
            self.reset()
            time.sleep(NO_CLIENT_PAUSE)
        for frame in self.decoder.feed(data):
            try:
                self.handle(frame)
            except (OSError, ValueError, KeyError, TypeError) as error:
                self.puts.pop(frame.stream).close() if frame.stream in self.puts else None
                self.exit(frame.stream, error=explain(error))

    def advance(self, descriptor: int, events: int, stream: int, running: Exec) -> None:
        """Move data of one command; report its end once all its output is through."""
        if events & select.POLLOUT:
            running.flush()
        if descriptor in running.outputs and events & ~select.POLLOUT:
            try:
                data = os.read(descriptor, LIMIT)
            except OSError:  # EIO: the last user of a terminal closed it
                data = b""
            if data:
                self.send(Frame(running.outputs[descriptor], stream, data))
            else:
                del running.outputs[descriptor]
        elif descriptor == running.input and events & (select.POLLERR | select.POLLHUP):
            running.flush()
        if not running.outputs:
            status = running.process.wait()
            del self.execs[stream]
            running.close()
            self.exit(stream, status=status)

    def handle(self, frame: Frame) -> None:
        running = self.execs.get(frame.stream)
        match frame.kind:
            case Kind.RESET:
                self.reset()
                self.send(frame)
            case Kind.OPEN:
                self.open(frame.stream, json.loads(frame.payload))
            case Kind.INPUT if running:
                running.feed(frame.payload)
            case Kind.INPUT if frame.stream in self.puts:
                if frame.payload:
                    self.puts[frame.stream].file.write(frame.payload)
                else:
                    self.puts.pop(frame.stream).finish()
                    self.exit(frame.stream, status=0)
            case Kind.SIGNAL if running:
                running.signal(frame.payload[0])
            case Kind.RESIZE if running:
                running.resize(*struct.unpack("<HH", frame.payload))
            case _:
                pass  # for an operation that has just ended

    def open(self, stream: int, request: dict[str, Any]) -> None:
        match request["op"]:
            case "exec":
                self.execs[stream] = Exec(cast(ExecRequest, request))
                if "size" in request:
                    self.execs[stream].resize(*request["size"])
            case "put":
                self.puts[stream] = Put(cast(PutRequest, request))
            case "get":
                with open(cast(GetRequest, request)["path"], "rb") as file:
                    while data := file.read(LIMIT):
                        self.send(Frame(Kind.OUTPUT, stream, data))
                self.exit(stream, status=0)
            case unknown:
                raise ValueError(f"unknown operation {unknown!r}")

    def reset(self) -> None:
        for operation in (*self.execs.values(), *self.puts.values()):
            operation.close()
        self.execs.clear()
        self.puts.clear()


def explain(error: Exception) -> str:
    """One line, with the file's name if it is about one."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def main() -> None:
    """Serve the port given as the only argument, for ever."""
    Agent(sys.argv[1]).serve()


if __name__ == "__main__":
    main()
