# SPDX-License-Identifier: Apache-2.0
"""The client of the agent in the host VM: commands and files (wire.py)."""

from __future__ import annotations

import json
import os
import queue
import signal
import socket
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from gz.board.errors import BoardError
from gz.board.wire import LIMIT, Decoder, ExecRequest, Frame, Kind, Request, frames


@dataclass(frozen=True)
class Completed:
    """`status` is the exit status, or minus the signal's number."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode(errors="replace")


class Process:
    """A command in the host VM. Events arrive in order; the last one is the exit."""

    def __init__(self, channel: Channel, stream: int) -> None:
        self.channel = channel
        self.stream = stream
        self.queue: queue.SimpleQueue[Frame] = queue.SimpleQueue()
        self.status: int | None = None

    def events(self, timeout: float | None = None) -> Iterator[tuple[Kind, bytes]]:
        """(OUTPUT or ERRORS, bytes) until the command has ended; then `status` is set.

        TimeoutError when the command is still running after `timeout` seconds."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while self.status is None:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                frame = self.queue.get(timeout=left)
            except queue.Empty:
                raise TimeoutError(f"still running after {timeout:g} s") from None
            if frame.kind is not Kind.EXIT:
                yield frame.kind, frame.payload
                continue
            result = json.loads(frame.payload)
            if "error" in result:
                self.status = 127
                raise BoardError(result["error"])
            self.status = result["status"]

    def write(self, data: bytes) -> None:
        for frame in frames(Kind.INPUT, self.stream, data):
            self.channel.send(frame)

    def end_input(self) -> None:
        self.channel.send(Frame(Kind.INPUT, self.stream))

    def signal(self, number: int) -> None:
        self.channel.send(Frame(Kind.SIGNAL, self.stream, bytes([number])))

    def resize(self, rows: int, columns: int) -> None:
        self.channel.send(Frame(Kind.RESIZE, self.stream, struct.pack("<HH", rows, columns)))

    def wait(self, timeout: float | None = None) -> Completed:
        """Collect the output until the command has ended."""
        output: dict[Kind, list[bytes]] = {Kind.OUTPUT: [], Kind.ERRORS: []}
        for kind, data in self.events(timeout):
            output[kind].append(data)
        assert self.status is not None
        return Completed(self.status, b"".join(output[Kind.OUTPUT]), b"".join(output[Kind.ERRORS]))


class Channel:
    """One connection to the agent, over the Unix socket of the board's control port."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.socket.connect(str(path))
        except OSError as error:
            self.socket.close()
            raise BoardError(f"the board's control port does not answer: {error.strerror}") from None
        self.nonce = os.urandom(16)
        self.greeted = False
        self.ready = threading.Event()
        self.lost: str | None = None
        self.streams: dict[int, Process] = {}
        self.last = 0
        self.lock = threading.Lock()
        self.sending = threading.Lock()
        self.reader = threading.Thread(target=self._read, name="board-channel", daemon=True)
        self.reader.start()

    def __enter__(self) -> Channel:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def hello(self, timeout: float) -> bool:
        """Whether the agent answers within `timeout` seconds; the greeting waits in the port until it starts."""
        if not self.greeted:
            self._transmit(bytes(LIMIT) + Frame(Kind.RESET, 0, self.nonce).encode())
            self.greeted = True
        answered = self.ready.wait(timeout)
        self._check()
        return answered

    def start(
        self,
        argv: list[str],
        *,
        env: dict[str, str] | None = None,
        cwd: str | None = None,
        terminal: tuple[int, int] | None = None,
    ) -> Process:
        """Start a command; with `terminal` (rows, columns) on a terminal of its own."""
        request: ExecRequest = {"op": "exec", "argv": argv, "env": env or {}, "cwd": cwd}
        if terminal:
            request["size"] = terminal
        return self._open(request)

    def run(
        self,
        argv: list[str],
        *,
        stdin: bytes = b"",
        timeout: float | None = None,
        env: dict[str, str] | None = None,
    ) -> Completed:
        """Run a command to its end. TimeoutError, the command killed, after `timeout` seconds."""
        process = self.start(argv, env=env)
        process.write(stdin)
        process.end_input()
        try:
            return process.wait(timeout)
        except TimeoutError:
            process.signal(signal.SIGKILL)
            raise

    def put(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Write a file in the host VM, complete or not at all."""
        process = self._open({"op": "put", "path": path, "mode": mode})
        process.write(content)
        process.end_input()
        process.wait()

    def get(self, path: str) -> bytes:
        return self._open({"op": "get", "path": path}).wait().stdout

    def send(self, frame: Frame) -> None:
        self._check()
        self._transmit(frame.encode())

    def close(self) -> None:
        try:
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        if threading.current_thread() is not self.reader:
            self.reader.join()
        self.socket.close()

    def _open(self, request: Request) -> Process:
        with self.lock:
            self._check()
            self.last += 1
            process = self.streams[self.last] = Process(self, self.last)
        payload = json.dumps(request).encode()
        if len(payload) > LIMIT:
            raise BoardError(f"the command is too long: {len(payload)} bytes, at most {LIMIT}")
        self.send(Frame(Kind.OPEN, process.stream, payload))
        return process

    def _transmit(self, data: bytes) -> None:
        try:
            with self.sending:
                self.socket.sendall(data)
        except OSError:
            raise BoardError(self.lost or "the connection to the host VM is gone") from None

    def _check(self) -> None:
        if self.lost:
            raise BoardError(self.lost)

    def _read(self) -> None:
        decoder = Decoder()
        while True:
            try:
                data = self.socket.recv(65536)
            except OSError:
                data = b""
            if not data:
                break
            for frame in decoder.feed(data):
                self._dispatch(frame)
        with self.lock:
            self.lost = "the host VM went away"
            self.ready.set()
            gone = Frame(Kind.EXIT, 0, json.dumps({"error": self.lost}).encode())
            for process in self.streams.values():
                process.queue.put(gone)

    def _dispatch(self, frame: Frame) -> None:
        if frame.kind is Kind.RESET:
            if frame.payload == self.nonce:
                self.ready.set()
            return
        if not self.ready.is_set():
            return  # meant for an earlier client
        with self.lock:
            process = self.streams.get(frame.stream)
            if process and frame.kind is Kind.EXIT:
                del self.streams[frame.stream]
        if process:
            process.queue.put(frame)
