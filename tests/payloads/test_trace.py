# SPDX-License-Identifier: Apache-2.0
"""The core's own record of what its calls take, from outside: no interrupt is taken at EL2 meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
from emulator import host, traced

from gz.abi.calls import Call
from gz.cli.trace import Entry
from gz.core.trace import RECORD_COUNT, Event

#: Nanoseconds of a tick: as many instructions with -icount shift=0.
TICK = 16
BOUND = 20_000
ENDS = (Event.RETURN, Event.AGAIN)


def pairs(entries: list[Entry]) -> list[tuple[Entry, Entry]]:
    """Calls, or turns of them, and their ends."""
    calls = [entry for entry in entries if entry.event in (Event.CALL, *ENDS)]
    found = list(zip(calls[::2], calls[1::2], strict=True))
    assert all(call.event == Event.CALL and end.event in ENDS for call, end in found)
    return found


@pytest.mark.parametrize("cpu", ["cortex-a76", "max"])
def test_how_long_calls_take(tmp_path: Path, cpu: str) -> None:
    """H4."""
    looks = traced("longest", tmp_path, cpu)
    assert len(looks) == 23
    longest: dict[str, int] = {}
    last = 0
    for entries in looks:
        new = [entry for entry in entries if entry.time > last]
        assert len(new) < RECORD_COUNT - 1, "the trace has forgotten some"
        last = new[-1].time
        for call, end in pairs(new):
            longest[call.name()] = max(longest.get(call.name(), 0), TICK * (end.time - call.time))
    assert set(longest) == {call.name for call in Call} - {"RUN", "GET_REGS", "SET_REGS"}
    assert max(longest.values()) <= BOUND, longest


@pytest.mark.parametrize("cpu", ["cortex-a76", "max"])
def test_how_long_the_core_is_busy_for_a_guest(cpu: str) -> None:
    """H4: exits, entries and the guest's own calls, as the guest counts them."""
    measured = [(name, int(count)) for name, count in (line.split() for line in host("served", cpu=cpu))]
    assert len(measured) == 15
    assert max(count for _, count in measured) <= BOUND, measured
