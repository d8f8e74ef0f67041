# SPDX-License-Identifier: Apache-2.0
"""The core's own record of what its calls take, from outside: no interrupt is taken at EL2 meanwhile."""

from __future__ import annotations

import pytest
from emulator import traced

from gz.abi.calls import Call
from gz.cli.trace import Entry
from gz.core.trace import Event

#: Nanoseconds of a tick: as many instructions with -icount shift=0.
TICK = 16
BOUND = 20_000
#: Calls that deal with up to 512 pages do so in one go; 2 MiB are cleaned to the point of coherency meanwhile.
LONGER = {
    Call.MAP_GUEST: 340_000,
    Call.MAP_GUEST_BLOCK: 340_000,
    Call.SET_MEMREGION: 340_000,
    Call.DESTROY_VM: 400_000,
}


@pytest.fixture(scope="module")
def entries(tmp_path_factory: pytest.TempPathFactory) -> list[Entry]:
    return traced("longest", "all calls made", tmp_path_factory.mktemp("qemu"))


def test_how_long_calls_take(entries: list[Entry]) -> None:
    calls = [entry for entry in entries if entry.event in (Event.CALL, Event.RETURN)]
    pairs = list(zip(calls[::2], calls[1::2], strict=True))
    assert all((call.event, end.event) == (Event.CALL, Event.RETURN) for call, end in pairs)
    longest: dict[str, int] = {}
    for call, end in pairs:
        longest[call.name()] = max(longest.get(call.name(), 0), TICK * (end.time - call.time))
    assert set(longest) == {call.name for call in Call} - {"RUN", "GET_REGS", "SET_REGS"}
    assert all(most <= LONGER.get(Call[name], BOUND) for name, most in longest.items()), longest
