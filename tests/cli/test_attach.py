# SPDX-License-Identifier: Apache-2.0
"""A board that is up, looked into from outside: gdb attaches to it, and the core's trace is read."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from gz.board.qemu import Machine, Qemu
from gz.cli import products
from gz.cli.board import Record

STOP = "look"
STOPS = 2  # the VM is made, and has its first block
HOST = 0x4A00_0000


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state directory that says a board is up; instead of Debian its host is a payload, which goes on calling."""
    directory = tmp_path_factory.mktemp("state")
    host = products.payload("longest").flat
    qemu = Qemu(Machine(host, host, core=products.core(), cpus=1))
    try:
        record = Record(qemu.process.pid, str(qemu.directory), qemu.machine.options(), True)
        (directory / "board.json").write_text(json.dumps(asdict(record)))
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
            console.connect(str(qemu.console))
            console.sendall(b"\n")  # for its first stop
            end = time.monotonic() + 120
            while qemu.console_text().count(STOP) < STOPS:
                assert qemu.running() and time.monotonic() < end, qemu.console_text()
                time.sleep(0.05)
            yield directory
        assert qemu.running()
    finally:
        qemu.stop()


def gz(state: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "gz", *arguments],
        env={**os.environ, "GZ_STATE": str(state)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and "Python Exception" not in done.stderr, done.stdout + done.stderr
    return done.stdout


def test_gdb_attaches_and_lets_go(state: Path) -> None:
    """Twice: the board goes on when gdb leaves."""
    for _ in range(2):
        commands = ("break gz.core.power.call", "continue", "backtrace", "gz-world", "gz-trace 3", "delete", "detach")
        text = gz(state, "debug", "--", "-batch", *(word for command in commands for word in ("-ex", command)))
        frames = re.findall(r"^#\d+ +(.*)$", text, re.MULTILINE)
        assert frames[0].startswith("gz.core.power.call (context=0x"), text
        assert re.search(r" in vectors \(\) at gz/core/vectors\.py:\d+$", frames[-2])
        assert HOST <= int(frames[-1].split()[0], 16) < HOST + (1 << 20)
        assert re.search(r"^the host: pc 0x4a\w+, ", text, re.MULTILINE) and "HVC64" in text
        assert len(re.findall(r"^ +\d+  CPU 0  ", text, re.MULTILINE)) == 3 and "MAP_GUEST_BLOCK" in text


def test_the_trace_is_read(state: Path) -> None:
    rows = json.loads(gz(state, "board", "trace", "--json"))
    called = {row["name"] for row in rows if row["event"] == "call"}
    assert called == {
        "PROBE",
        "CREATE_VM",
        "ENABLE_CAP",
        "MEMREGION_PURPOSE",
        "SET_MEMREGION",
        "CREATE_DEVICE",
        "CREATE_VCPU",
        "SET_ONE_REG",
        "GET_ONE_REG",
        "MAP_GUEST_BLOCK",
    }
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert sum(row["event"] == "call" for row in rows) == sum(row["event"] in ("return", "again") for row in rows)
    assert sum(row["bytes"] for row in rows if row["event"] == "map") == 2 << 20
    text = gz(state, "board", "trace")
    assert len(text.splitlines()) == len(rows)
    assert re.search(r"CPU 0  map +VM 1 vCPU 0 +ipa 0x40000000  bytes 0x200000$", text, re.MULTILINE)
