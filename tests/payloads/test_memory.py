# SPDX-License-Identifier: Apache-2.0
"""The memory calls on the emulated machine: what they cost in instructions, and a host that means ill."""

from __future__ import annotations

import pytest
from emulator import counts, host

PAGES = 512
LARGE_BLOCKS = 256

#: Instructions of a call; of `large_vm_tables` bytes. Where FEAT_S2FWB is missing, `CLEANING` comes on top.
TARGETS = {
    "vm_create_destroy": 16_000,
    "vcpu_create_destroy": 2_000,
    "map_block": 6_000,
    "map_block_again": 4_000,
    "destroy_block": 2_000,
    "map_block_scattered": 150_000,
    "destroy_block_scattered": 65_000,
    "map_page": 1_000,
    "destroy_page": 200,
    "map_private_block": 6_000,
    "destroy_private_block": 190_000,
    "map_private_page": 1_200,
    "destroy_private_page": 1_000,
    "large_vm": 1_500_000,
    "large_vm_tables": 64 << 10,
}
#: To the point of coherency, a line of 64 bytes in some two instructions.
CLEANING = {
    "map_block": 72_000,
    "map_block_scattered": 110_000,
    "map_private_block": 72_000,
    "large_vm": LARGE_BLOCKS * 72_000,
}


@pytest.mark.parametrize("cpu, cleaning", [("cortex-a76", CLEANING), ("max", {})])
def test_costs(cpu: str, cleaning: dict[str, int]) -> None:
    lines = host("memory", cpu=cpu, memory=1024)
    measured = {name: int(count) for name, count in (line.split() for line in lines)}
    assert list(measured) == list(TARGETS)
    excess = {name: count for name, count in measured.items() if count > TARGETS[name] + cleaning.get(name, 0)}
    assert not excess
    scrub = measured["destroy_private_block"] // PAGES
    most = 1_500 + cleaning.get("map_private_block", 0) // PAGES
    assert measured["map_private_page"] + measured["destroy_private_page"] - scrub <= most


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76", "max"])
def test_hostile_host(cpu: str) -> None:
    """Neither the core nor the host is lost, and no page stays with a VM."""
    score, last = host("hostile", cpu=cpu)
    assert last == "all memory came back"
    assert counts(score)["succeeded"] > 2000 and counts(score)["runs"] > 200
