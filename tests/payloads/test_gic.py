# SPDX-License-Identifier: Apache-2.0
"""The virtual GIC as guests see it, check by check; the emulator's own GIC says that the checks are right."""

from __future__ import annotations

import pytest
from emulator import bare, failed, guest, host


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_on_the_machine(cpus: int) -> None:
    lines = bare("gic", cpus=cpus)
    assert lines[0].startswith(f"{cpus} CPUs") and not failed(lines), lines


@pytest.mark.parametrize("cpu", ["cortex-a72", "max"])
def test_one_vcpu(cpu: str) -> None:
    lines = guest("gic", cpu)
    assert lines[0] == "1 CPUs, INTIDs below 1020" and not failed(lines), lines


@pytest.mark.parametrize("cpus", [2, 4])
def test_vcpus(cpus: int) -> None:
    lines = guest("gic", cpus=cpus)
    assert lines[0] == f"{cpus} CPUs, INTIDs below 1020" and not failed(lines), lines
    assert [line for line in lines if line.startswith("SKIP")] == ["SKIP message"], "the frame is the VMM's"


def test_above_the_core() -> None:
    """A host has the machine's own GIC, on eight CPUs."""
    lines = host("gic", cpus=8)
    assert lines[0] == "8 CPUs, INTIDs below 256" and not failed(lines), lines
