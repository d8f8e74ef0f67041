# SPDX-License-Identifier: Apache-2.0
"""The memory calls on the emulated machine: what they cost in instructions, and a host that means ill."""

from __future__ import annotations

import pytest
from emulator import counts, host

CLEAN_BLOCK = (2 << 20) // 64 * 21 // 8  # 2 MiB to the point of coherency, eight lines in 21 instructions

#: No more than this.
TARGETS = {
    "vm_create_destroy": 16_000,
    "vcpu_create_destroy": 2_000,
    "map_block": CLEAN_BLOCK + 6_000,
    "map_block_again": 4_000,
    "destroy_block": 3_000,
    "map_block_scattered": CLEAN_BLOCK + 150_000,
    "destroy_block_scattered": 60_000,
    "map_page": 1_000,
}


def test_costs() -> None:
    lines = host("memory")
    measured = {name: int(count) for name, count in (line.split() for line in lines)}
    assert list(measured) == list(TARGETS)
    assert all(measured[name] <= most for name, most in TARGETS.items()), measured


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76", "max"])
def test_hostile_host(cpu: str) -> None:
    """Neither the core nor the host is lost, and no page stays with a VM."""
    score, last = host("hostile", cpu=cpu)
    assert last == "all memory came back"
    assert counts(score)["succeeded"] > 2000 and counts(score)["runs"] > 200
