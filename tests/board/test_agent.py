# SPDX-License-Identifier: Apache-2.0
"""Client and agent against each other, over a terminal pair in place of the virtio-serial port."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import tty
from collections.abc import Iterator
from pathlib import Path

import pytest

from gz.board.channel import Channel
from gz.board.errors import BoardError
from gz.board.wire import Kind


class Relay:
    """QEMU's part: one client after another on the port, whose descriptor is not to be closed before `stop`."""

    def __init__(self, path: Path, port: int) -> None:
        self.port = port
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen()
        self.clients: list[socket.socket] = []
        self.threads = [threading.Thread(target=part) for part in (self.outward, self.inward)]
        for thread in self.threads:
            thread.start()

    def outward(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.clients.append(client)
            try:
                while data := client.recv(65536):
                    while data:
                        data = data[os.write(self.port, data) :]
            except OSError:
                pass  # that client is gone

    def inward(self) -> None:
        while True:
            try:
                data = os.read(self.port, 65536)
            except OSError:
                return
            try:
                self.clients[-1].sendall(data)
            except (IndexError, OSError):
                pass  # nobody listens, as on a port without a client

    def stop(self) -> None:
        """The agent is gone: reads of the port fail."""
        for end in (self.listener, *self.clients):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
        for thread in self.threads:
            thread.join()
        for end in (self.listener, *self.clients):
            end.close()


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Path]:
    ours, theirs = os.openpty()
    tty.setraw(ours)
    tty.setraw(theirs)
    agent = subprocess.Popen(
        [sys.executable, "-m", "gz.board.agent", os.ttyname(theirs)],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "src")},
    )
    path = tmp_path / "control"
    relay = Relay(path, ours)
    yield path
    agent.kill()
    agent.wait()
    os.close(theirs)
    relay.stop()
    os.close(ours)


@pytest.fixture
def channel(port: Path) -> Iterator[Channel]:
    with Channel(port) as channel:
        assert channel.hello(20)
        yield channel


def test_streams_and_status_are_kept_apart(channel: Channel):
    done = channel.run(["sh", "-c", "cat; echo wrong >&2; exit 5"], stdin=b"in\0put", timeout=60)
    assert (done.status, done.stdout, done.stderr) == (5, b"in\0put", b"wrong\n")


def test_large_data_both_ways(channel: Channel):
    data = os.urandom(300_000)
    assert channel.run(["cat"], stdin=data, timeout=60).stdout == data


def test_several_commands_at_once(channel: Channel):
    slow = channel.start(["sh", "-c", "read line; echo slow $line"])
    assert channel.run(["echo", "quick"], timeout=60).text == "quick\n"
    slow.write(b"one\n")
    assert slow.wait(20).text == "slow one\n"


def test_signals(channel: Channel):
    process = channel.start(["sleep", "60"])
    process.signal(signal.SIGTERM)
    assert process.wait(20).status == -signal.SIGTERM


def test_a_command_that_takes_too_long(channel: Channel):
    with pytest.raises(TimeoutError):
        channel.run(["sleep", "60"], timeout=0.3)
    assert channel.run(["true"], timeout=60).status == 0


def test_what_is_not_there(channel: Channel):
    with pytest.raises(BoardError, match="no-such-program"):
        channel.run(["no-such-program"], timeout=60)
    with pytest.raises(BoardError, match="/no/such/file"):
        channel.get("/no/such/file")
    assert channel.run(["true"], timeout=60).status == 0


def test_files(channel: Channel, tmp_path: Path):
    content = os.urandom(100_001)
    target = tmp_path / "deep" / "file"
    channel.put(str(target), content, 0o640)
    assert target.read_bytes() == content and target.stat().st_mode & 0o777 == 0o640
    assert channel.get(str(target)) == content
    with pytest.raises(BoardError):
        channel.put("/proc/no/such", b"x")
    assert list(target.parent.iterdir()) == [target]


def test_a_terminal(channel: Channel):
    process = channel.start(["sh", "-c", "stty size; read line; echo got $line"], terminal=(33, 99))
    process.write(b"word\n")
    text = b"".join(data for kind, data in process.events(20) if kind is Kind.OUTPUT)
    assert b"33 99" in text and b"got word" in text


@pytest.mark.parametrize("command", ["exec sleep 600", "sleep 600 & wait", "sleep 600 & exec sleep 600"])
def test_a_new_client_ends_what_the_old_one_left(port: Path, tmp_path: Path, command: str):
    """Once it is greeted. Who lives is told by who holds a pipe: a process number may be another's by then."""
    held = tmp_path / "held"
    os.mkfifo(held)
    first = Channel(port)
    assert first.hello(60)
    end = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    try:
        started = first.start(["sh", "-c", f"exec 9>{held}; echo started; {command}"])
        assert next(started.events(60))[1] == b"started\n"
        with pytest.raises(BlockingIOError):
            os.read(end, 1)
        first.close()
        with Channel(port) as second:
            assert second.hello(60)
            assert os.read(end, 1) == b""
    finally:
        os.close(end)


@pytest.mark.skipif(shutil.which("head") is None, reason="needs coreutils")
def test_input_after_the_command_has_ended_is_dropped(channel: Channel):
    assert channel.run(["head", "-c", "1"], stdin=bytes(200_000), timeout=60).stdout == b"\0"
    assert channel.run(["true"], timeout=60).status == 0


def test_input_after_the_command_has_closed_its_own_is_dropped(channel: Channel):
    process = channel.start(["sh", "-c", "exec <&-; echo closed; sleep 1; echo done"])
    assert next(process.events(60))[1] == b"closed\n"
    for _ in range(3):
        process.write(bytes(1000))
    assert process.wait(60).stdout == b"done\n"
