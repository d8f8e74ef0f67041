# SPDX-License-Identifier: Apache-2.0
"""The payloads on the bare emulator, at EL1 without a hypervisor: what they must also do as guests."""

from __future__ import annotations

import re

import pytest
from emulator import bare, counts


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76", "neoverse-n1", "max"])
def test_hello(cpu: str) -> None:
    (line,) = bare("hello", cpu)
    assert re.fullmatch(r"hello from a guest, device tree at 0x4[0-9a-f]{7}", line)


def test_exits() -> None:
    """Without a hypervisor there are no exits: every operation takes its own few instructions."""
    lines = bare("exits")
    measured = {name: int(count) for name, count in (line.split() for line in lines)}
    assert list(measured) == [
        "hvc_psci_version",
        "id_register",
        "mmio_read_vgic",
        "mmio_read_user",
        "eoi",
        "ipi_self",
        "timer",
    ]
    assert all(3 <= measured[name] <= 30 for name in list(measured)[:5]), measured
    assert all(30 <= measured[name] <= 200 for name in ("ipi_self", "timer")), measured
    assert bare("exits") == lines


def test_registers() -> None:
    """The bare CPU has no EL2 to offer, so its registers are undefined; many of EL1 and EL0 can be read."""
    debug, system, maintenance = (counts(line.partition(": ")[2]) for line in bare("registers"))
    for kinds in (debug, system, maintenance):
        assert sum(kinds.values()) == 1 << 14
        assert kinds["other"] == 0
    assert system["read"] > 150


def test_calls() -> None:
    """The emulator's own PSCI answers HVC; SMC needs an EL3 and is undefined."""
    lines = bare("calls")
    assert "function 0x84000000 answers 0x10001" in lines
    known, host, _, _, *smc = (counts(line) for line in lines if line.endswith("answered"))
    assert known["calls"] == known["not supported"] + known["answered"]
    assert host == {"calls": 40, "not supported": 40, "undefined": 0, "answered": 0}
    assert len(smc) == 4
    assert all(kinds["undefined"] == kinds["calls"] for kinds in smc)
