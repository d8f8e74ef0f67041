# SPDX-License-Identifier: Apache-2.0
"""Isolation tests played step by step, each step on another CPU of the host's."""

from __future__ import annotations

import pytest
from emulator import host


@pytest.mark.parametrize("cpu, cpus", [("cortex-a76", 1), ("cortex-a76", 2), ("cortex-a76", 4), ("max", 2)])
def test_isolation(cpu: str, cpus: int) -> None:
    """M11: a handle that is used again. M12: set and way. C3: a state that is no guest's. H7: the entry of a protected
    guest. M13, H8: no memory for VMs, for tables."""
    lines = host("isolation", cpu=cpu, cpus=cpus)
    assert lines == [f"PASS {name}" for name in ("M11", "M12", "C3", "H7", "M13 H8")]
