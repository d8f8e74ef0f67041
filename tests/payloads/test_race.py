# SPDX-License-Identifier: Apache-2.0
"""Several CPUs of a host at once on the emulated board, with guests that run (H5, H6, M9, M10)."""

from __future__ import annotations

import pytest
from emulator import COUNTED, RACING, counts, host, image

from payloads.exclusives import ROUNDS


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


@pytest.mark.parametrize("cpu, cpus", [("cortex-a76", 1), ("cortex-a76", 2), ("max", 4)])
def test_a_guest_spins_exclusives_where_the_core_writes(cpu: str, cpus: int) -> None:
    """H9: on records of stolen time and on a page that it gives back; each call ends, in seconds of 62.5 million
    ticks, and without others in the instructions that it takes."""
    line, last = host("host", image("payloads.exclusives"), cpu, cpus, clock=COUNTED if cpus == 1 else RACING)
    kinds = counts(line)
    assert last == "host: the guest is gone"
    assert (kinds["given back"], kinds["spinning"]) == (ROUNDS, cpus - 1)
    assert max(kinds["ticks to give back"], kinds["ticks to record"]) < (1000 if cpus == 1 else 5 * 62_500_000)
