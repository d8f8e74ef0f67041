# SPDX-License-Identifier: Apache-2.0
"""Several CPUs of a host at once on the emulated board, with guests that run (H5, H6, M9, M10)."""

from __future__ import annotations

import pytest
from emulator import RACING, counts, host


@pytest.mark.parametrize("cpu, cpus", [("cortex-a76", 1), ("cortex-a76", 2), ("cortex-a76", 4), ("max", 4)])
def test_cpus_race_on_the_same_objects(cpu: str, cpus: int) -> None:
    """H5, H6; H2: each changes the mailbox and the buffers that others name. Nothing hangs, every page comes back."""
    score, last = host("race", cpu=cpu, cpus=cpus, clock=RACING)
    assert last == "all memory came back"
    assert counts(score)["succeeded"] > 15_000 and counts(score)["runs"] > 1000


@pytest.mark.parametrize("cpu, cpus", [("cortex-a76", 2), ("cortex-a76", 4), ("max", 2)])
def test_a_page_comes_back_while_another_cpu_writes_to_it(cpu: str, cpus: int) -> None:
    """M9: nothing is written there once the call has returned. M10: a block is split and joined, no store is lost."""
    score, last = host("reclaim", cpu=cpu, cpus=cpus, clock=RACING)
    assert counts(score) == {"rounds": 300, "refused": 0, "late words": 0, "lost stores": 0}
    assert last == "the writer wrote"
