# SPDX-License-Identifier: Apache-2.0
"""How late timers are, of guests that wait in every way and of their host, counted in virtual time."""

from __future__ import annotations

import pytest
from emulator import counts, host

#: Virtual time goes to the next deadline as soon as all CPUs wait, instead of at the pace of real time.
COUNTED = ("-icount", "shift=0,sleep=off", "-seed", "1")
MICROSECONDS = 100
WAYS_OF_GUESTS = 10
WAYS_OF_THE_HOST = 4


@pytest.mark.parametrize(("cpu", "cpus"), [("cortex-a76", 1), ("cortex-a72", 2)])
def test_no_timer_is_late(cpu: str, cpus: int) -> None:
    lines = host("lateness", cpu=cpu, cpus=cpus, clock=COUNTED)
    print("\n".join(lines))
    found = {name: counts(what) for name, _, what in (line.partition(": ") for line in lines)}
    guests = [what for what in found.values() if "late" in what]
    assert len(guests) == WAYS_OF_GUESTS and all(0 < what["late"] <= MICROSECONDS for what in guests), lines
    own = [what["own"] for what in found.values() if "own" in what]
    assert len(own) == WAYS_OF_GUESTS + WAYS_OF_THE_HOST and all(late <= MICROSECONDS for late in own), lines
    assert all(what.get("wrong", 0) == 0 for what in found.values()), lines
    assert found["vCPUs compare the time"]["answers"] == 4 and found["vCPUs compare the time"]["turns"] >= 20, lines
    assert "a vCPU is off with its timers on" in found
