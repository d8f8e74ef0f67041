# SPDX-License-Identifier: Apache-2.0
"""A guest's exceptions: what its VMM hears of if it asks; debug registers and counters that stay each world's own."""

from __future__ import annotations

import pytest
from emulator import host

from gz.abi.errors import Error
from gz.abi.exits import ExceptionCode, SystemEvent, Watch

GUEST = [
    "guest: brk 0xf2000123",
    "guest: udf 0x2000000",
    "guest: mrs 0x2000000",
    "guest: ldp 0x96000010 0x1000000",
    "guest: hvc 0x10001",
    "guest: smc 0x10001",
]
CRASH = f"host: event {int(SystemEvent.CRASH)} 4 class 0x20 at 0x70000200 0x70000200"
HEARD = [
    (Watch.BREAKPOINT, "host: debug 0xf2000123"),
    (Watch.UNDEFINED, f"host: exception {int(ExceptionCode.UNDEFINED)}, class 0x18"),
    (Watch.ABORT, f"host: exception {int(ExceptionCode.ABORT)}, class 0x24, at 0x1000000"),
    (Watch.HVC, f"host: exception {int(ExceptionCode.HVC)}, class 0x16"),
    (Watch.SMC, f"host: exception {int(ExceptionCode.SMC)}, class 0x17"),
    (Watch.BREAKPOINT, "host: debug 0xf2000123"),
]
REFUSED = -Error.INVALID_ARGS


@pytest.mark.parametrize("cpu", ["cortex-a76", "max"])
def test_watched(cpu: str) -> None:
    lines = host("watched", cpu=cpu)
    assert lines.pop() == "the host lives"
    assert lines[0] == f"host: watches 0x0: 0, too much: {REFUSED}"
    for kinds in (0, *Watch, sum(Watch)):
        begin = lines.index(f"host: watches {int(kinds):#x}: 0, too much: {REFUSED}")
        end = begin + 1 + lines[begin + 1 :].index(CRASH)
        watched = lines[begin + 1 : end]
        assert [line for line in watched if line.startswith("guest: ")] == GUEST, kinds
        assert [line for line in watched if line.startswith("host: ")] == [line for kind, line in HEARD if kind & kinds]


@pytest.mark.parametrize("cpu, cpus", [("cortex-a76", 1), ("cortex-a76", 2), ("cortex-a76", 4), ("max", 1)])
def test_neighbours(cpu: str, cpus: int) -> None:
    """C4: nothing of the others is there, fires, changes or is counted."""
    clean = "0 fired, 0 missed, 0 changed, 0 counted"
    lines = host("neighbours", cpu=cpu, cpus=cpus)
    assert lines == [f"guest 0: {clean}", f"guest 1: {clean}", f"host: {clean}"]


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_ruined_guests(cpus: int) -> None:
    """C9: three that can't take exceptions are said to have crashed, others go round for ever; the host lives."""
    crash, shutdown = (f"event {int(event)}" for event in (SystemEvent.CRASH, SystemEvent.SHUTDOWN))
    endings = [crash, crash, crash, "no end", shutdown, "no end"]
    lines = [line for line in host("ruined", cpus=cpus) if line != "guest: still there"]
    assert lines == [*(f"host: way {way}: {ending}" for way, ending in enumerate(endings)), "the host lives"]
