# SPDX-License-Identifier: Apache-2.0
"""A protected VM on the emulated machine (M1, M2, M8, C1, H11): its host tries everything and lives."""

from __future__ import annotations

import pytest
from emulator import counts, host

PLACES = 5  # private pages that the host touches


@pytest.mark.parametrize("cpu, cpus", [("cortex-a72", 1), ("cortex-a76", 1), ("cortex-a76", 4), ("max", 2)])
def test_secret(cpu: str, cpus: int) -> None:
    probe, shown, guarded, answer, left = host("secret", cpu=cpu, cpus=cpus)
    kinds = counts(probe)
    assert kinds["exceptions"] == 0
    assert kinds["aborts"] >= 20 * PLACES
    assert shown == "host: shown 0x5ec2e75ec2e75ec2"
    assert guarded == "guest: 0 1 page shown"
    assert answer == "guest: answer 0xa45ea45ea45ea45e, 0 words changed"
    assert left == f"host: {4096 // 8} words left", "zeros but for what it was shown"
