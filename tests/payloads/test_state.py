# SPDX-License-Identifier: Apache-2.0
"""Registers that change hands only when they are used: nobody loses its own or sees another's (C2, C4)."""

from __future__ import annotations

import pytest
from emulator import counts, host

#: What the CPU has: SVE, keys of pointer authentication, SME; and bytes of the host's vectors.
CPUS = {
    "cortex-a53": (0, 0, 0, 16),
    "cortex-a76": (0, 0, 0, 16),
    "a64fx": (1, 0, 0, 64),
    "max": (1, 1, 1, 256),
    "max,pauth-impdef=on": (1, 1, 1, 256),
    "max,sve=off": (0, 1, 0, 16),
    "max,sme=off,pauth=off": (1, 0, 0, 256),
}


@pytest.mark.parametrize("cpu, cpus", [*((cpu, 1) for cpu in CPUS), ("cortex-a76", 2), ("cortex-a76", 4), ("max", 4)])
def test_state(cpu: str, cpus: int) -> None:
    """C2, C4: the guests go from CPU to CPU."""
    features, wrong = (counts(line) for line in host("state", cpu=cpu, cpus=cpus))
    scalable, keys, streaming, length = CPUS[cpu]
    assert (features["scalable"], features["keys"], features["streaming"]) == (scalable, keys, streaming)
    assert features["bytes"] == length
    assert wrong == {"host": 0, "first": 0, "second": 0}
