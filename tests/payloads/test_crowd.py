# SPDX-License-Identifier: Apache-2.0
"""More vCPUs than CPUs: everybody gets a share, on any CPU, and what it waits is told as stolen time (DEN0057)."""

from __future__ import annotations

import pytest
from emulator import counts, host


@pytest.fixture(scope="module")
def crowds() -> dict[int, dict[str, int]]:
    """By the number of vCPUs: the least and the most that one counted, and the permille that one waited."""
    lines = host("crowd", cpus=2, memory=2048)
    crowds = [counts(first) | counts(second) for first, second in zip(lines[::2], lines[1::2], strict=True)]
    return {crowd["vcpus"]: crowd for crowd in crowds}


def test_one_has_its_cpu_for_itself(crowds: dict[int, dict[str, int]]) -> None:
    assert crowds[1]["long"] < 20, "ticks of the host alone"


def test_two_share_a_cpu(crowds: dict[int, dict[str, int]]) -> None:
    crowd = crowds[2]
    assert crowd["least"] > 0.95 * crowd["most"]
    assert 440 < crowd["short"] <= crowd["long"] < 540
    assert 0.95 < crowd["total"] / crowds[1]["total"] / 2 < 1.05, "twice the time, one CPU"


def test_sixty_four_share_two_cpus(crowds: dict[int, dict[str, int]]) -> None:
    """All vCPUs of eight VMs, each nearly every time on the other CPU."""
    crowd = crowds[64]
    assert crowd["least"] > 0.7 * crowd["most"]
    assert crowd["migrations"] > 64 * 20
    assert 750 < crowd["short"] <= crowd["long"] < 1000
