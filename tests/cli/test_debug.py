# SPDX-License-Identifier: Apache-2.0
"""`gz debug`: gdb on the running core, from a Python line to the guest below the vectors."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "src" / "gz" / "core"
GUEST = 0x4000_0000
HOST = 0x4A00_0000


def line(file: str, text: str) -> str:
    """file:line of the only line with a text, for gdb."""
    lines = (CORE / file).read_text().splitlines()
    (number,) = (number for number, found in enumerate(lines, 1) if text in found)
    return f"src/gz/core/{file}:{number}"


def debug(*commands: str) -> str:
    """What gdb says in a session with the core, the smallest host and a guest that says hello."""
    flags = [flag for command in commands for flag in ("-ex", command)]
    done = subprocess.run(
        [sys.executable, "-m", "gz", "debug", "--payload", "hello", "--host-cpus", "1", "--", "-batch", *flags],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Python Exception" not in done.stderr
    return done.stdout


def frames(text: str) -> list[str]:
    return re.findall(r"^#\d+ +(.*)$", text, re.MULTILINE)


def test_session() -> None:
    left = line("enter.py", "context.x[0] = 0")
    mapped = line("mapping.py", "if u64(pa) & (PAGE_SIZE - 1) != 0:")
    guest, host = (
        text.split("--- stop\n")[1:]
        for text in debug(
            f"break {left}",
            f"break {mapped}",
            "continue",
            "echo --- stop\n",
            "backtrace",
            "echo --- stop\n",
            "gz-world",
            "echo === host\n",
            "continue",
            "echo --- stop\n",
            "backtrace",
            "echo --- stop\n",
            "info locals",
            "info args",
            "print *vm",
            "print vm.slots[0]",
            "ptype vm",
        ).split("=== host\n")
    )
    # A guest's first instruction is not there: the guest below leave and the vectors.
    below = frames(guest[0])
    assert below[0].startswith("gz.core.enter.leave (vcpu=0x") and below[0].endswith(f") at {left}")
    assert re.search(r" in vectors \(\) at gz/core/vectors\.py:\d+$", below[-2])
    assert int(below[-1].split()[0], 16) == GUEST
    assert guest[1].startswith(f"vCPU 0 of VM 1: pc {GUEST:#x}, ")
    assert re.search(r"^ESR_EL2 0x8200\w+: INSTRUCTION_ABORT_LOWER$", guest[1], re.MULTILINE)

    # The host's call to map it: map_block is inlined into its caller, which is a frame without an address of its own.
    below = frames(host[0])
    assert re.match(r"gz\.core\.mapping\._reserve \(vm=0x\w+ <gz\.core\.vm\[VMS\]>, .*\) at ", below[0])
    assert below[0].endswith(mapped)
    assert re.search(r"gz\.core\.mapping\.map_block \(.*count=512\) at src/gz/core/mapping\.py:\d+$", below[1])
    assert re.match(r"gz\.core\.calls\._map_guest_block \(.*\) at src/gz/core/calls\.py:\d+$", below[2])
    assert re.search(r" in vectors \(\) at gz/core/vectors\.py:\d+$", below[-2])
    assert HOST <= int(below[-1].split()[0], 16) < HOST + (1 << 20)
    assert f"base = {GUEST}" in host[1]
    assert re.search(r"\$1 = \{lock = \{taken = 1\}, .*vmid = 1, ", host[1])
    assert f"$2 = {{base = {GUEST}, page_count = 8192, mapped = 0, purpose = 1, access = 0}}" in host[1]
    assert re.search(r"^type = struct Vm \{$", host[1], re.MULTILINE)


@pytest.mark.parametrize("name", ["nothing", "../src"])
def test_unknown_payload(name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "gz", "debug", "--payload", name],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"gz: error: there is no payload {name!r}; see the directory payloads"
