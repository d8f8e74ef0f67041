# SPDX-License-Identifier: Apache-2.0
"""The kernel driver's calls in its order, by generation (payloads.driver): exits and their replay (gzvm ABI 1 to 5)."""

from __future__ import annotations

import pytest
from emulator import counts, host

PAGES = 2048  # of the guest's memory


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76", "max"])
def test_generations(cpu: str) -> None:
    lines = host("driver", cpu=cpu)
    played = {name: (guest, counts(told)) for name, guest, told in zip(*[iter(lines)] * 3, strict=True)}
    assert list(played) == ["G2 blocks", "G2 pages", "G3 blocks", "G3 populated", "G4 batches"]
    for name, (guest, told) in played.items():
        populated, latest = name == "G3 populated", name == "G4 batches"
        asked = 12 if name.startswith("G2") or populated else 13  # PTP is two checks, a page that comes again one
        assert guest == f"guest: {asked} right, 0 wrong", name
        assert told["bell"] == 1 and told["mmio"] > 30 and told["repeated"] >= 8, name
        assert told["events"] == 2, "a reset and the end, each told again after a signal"
        assert told["hypercall"] == (1 if name.startswith("G2") else 2), name
        assert told["irq"] > 0, name
        assert (told["gz"] == 0) == latest, "parked vCPUs"
        assert (told["idle"] > 0 and told["ipi"] == 2 and told["slept"] == 1) == latest, "only after 0x9203"
        assert (told["exception"] == 0) == populated, name
        assert (told["ends"] > 4) == latest, name
    assert played["G2 pages"][1]["shared"] == played["G2 pages"][1]["exception"] - 1, "a page each, one given back"
    assert played["G3 populated"][1]["shared"] == PAGES - 1
