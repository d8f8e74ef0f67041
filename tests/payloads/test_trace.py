# SPDX-License-Identifier: Apache-2.0
"""The core's own record of what its calls take, from outside: no interrupt is taken at EL2 meanwhile."""

from __future__ import annotations

from pathlib import Path

from emulator import traced

from gz.abi.calls import Call
from gz.cli.trace import Entry
from gz.core.trace import RECORD_COUNT, Event

#: Nanoseconds of a tick: as many instructions with -icount shift=0.
TICK = 16
BOUND = 20_000
#: Calls that deal with up to 512 pages do so in one go; 2 MiB are cleaned to the point of coherency meanwhile.
LONGER = {
    Call.MAP_GUEST: 340_000,
    Call.MAP_GUEST_BLOCK: 360_000,
    Call.SET_MEMREGION: 350_000,
}


def pairs(entries: list[Entry]) -> list[tuple[Entry, Entry]]:
    """Calls and their ends."""
    calls = [entry for entry in entries if entry.event in (Event.CALL, Event.RETURN)]
    found = list(zip(calls[::2], calls[1::2], strict=True))
    assert all((call.event, end.event) == (Event.CALL, Event.RETURN) for call, end in found)
    return found


def test_how_long_calls_take(tmp_path: Path) -> None:
    """H4."""
    looks = traced("longest", tmp_path)
    assert len(looks) == 10
    longest: dict[str, int] = {}
    last = 0
    for entries in looks:
        new = [entry for entry in entries if entry.time > last]
        assert len(new) < RECORD_COUNT - 1, "the trace has forgotten some"
        last = new[-1].time
        for call, end in pairs(new):
            longest[call.name()] = max(longest.get(call.name(), 0), TICK * (end.time - call.time))
    assert set(longest) == {call.name for call in Call} - {"RUN", "GET_REGS", "SET_REGS"}
    assert all(most <= LONGER.get(Call[name], BOUND) for name, most in longest.items()), longest
