# SPDX-License-Identifier: Apache-2.0
"""Timers, PSCI and exceptions as guests see them, check by check; the bare emulator says that the checks are right."""

from __future__ import annotations

import pytest
from emulator import bare, failed, guest, host


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_on_the_machine(cpus: int) -> None:
    lines = bare("platform", cpus=cpus)
    assert lines[0] == f"{cpus} CPUs" and not failed(lines), lines


@pytest.mark.parametrize("cpu, cpus", [("cortex-a72", 1), ("max", 1), ("cortex-a76", 2), ("cortex-a76", 4)])
def test_in_a_guest(cpu: str, cpus: int) -> None:
    """H7: one of all that switch a CPU on does it. Random numbers take a CPU that has them."""
    lines = guest("platform", cpu, cpus)
    assert lines[0] == f"{cpus} CPUs" and not failed(lines), lines
    assert lines[-1].startswith("late by ") and int(lines[-1].split()[2]) <= 100, lines
    assert ("PASS random numbers" in lines) == (cpu == "max")
    if cpus > 1:
        assert [line for line in lines if line.startswith("SKIP")] == ["SKIP random numbers"]


@pytest.mark.parametrize("cpus", [2, 8])
def test_above_the_core(cpus: int) -> None:
    """A host: its CPUs go off and on through the core, also when all of them want one of them."""
    lines = host("platform", cpus=cpus)
    assert lines[0] == f"{cpus} CPUs" and not failed(lines), lines
    assert {"PASS off and on", "PASS contended CPU_ON", "PASS state at entry"} <= set(lines)


@pytest.mark.parametrize("cpu", ["cortex-a72", "neoverse-n1", "max"])
def test_aarch32_at_el0(cpu: str) -> None:
    """Instructions of two bytes and of IT blocks that a guest's process waits, loads and stores with."""
    lines = guest("narrow", cpu)
    assert lines == bare("narrow", cpu) == ["PASS T32", "PASS A32", "PASS sign"]
    assert guest("narrow", "a64fx") == ["SKIP no AArch32"]
