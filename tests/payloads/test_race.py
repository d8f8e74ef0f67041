# SPDX-License-Identifier: Apache-2.0
"""Several CPUs of a host at once on the emulated board, with guests that run (H5, H6)."""

from __future__ import annotations

import pytest
from emulator import RACING, counts, host


@pytest.mark.parametrize("cpu, cpus", [("cortex-a76", 1), ("cortex-a76", 2), ("cortex-a76", 4), ("max", 4)])
def test_cpus_race_on_the_same_objects(cpu: str, cpus: int) -> None:
    """H5, H6: nothing hangs, nobody dies, every page comes back."""
    score, last = host("race", cpu=cpu, cpus=cpus, clock=RACING)
    assert last == "all memory came back"
    assert counts(score)["succeeded"] > 15_000 and counts(score)["runs"] > 1000
