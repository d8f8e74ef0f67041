# SPDX-License-Identifier: Apache-2.0
"""What a guest sees of each CPU model is what the policy says, and nothing else."""

from __future__ import annotations

import re

import pytest
from emulator import bare, failed, guest

from gz.arm64.sysreg import TABLE
from gz.core.identification import IDENTITIES, Identity
from payloads.identities import HIDDEN

CPUS = ["cortex-a53", "cortex-a57", "cortex-a72", "cortex-a76", "neoverse-n1", "a64fx", "max"]
MIDR, MPIDR, REVIDR = 0, 5, 6
#: QEMU's `max` has SME without the fine-grained traps that go with it: what guests find there is switched.
UNTRAPPED = {"max": {"TPIDR2_EL0", "SMPRI_EL1", "SMIDR_EL1"}}


def seen(lines: list[str], kind: str) -> dict[int, int]:
    found = (re.fullmatch(rf"{kind} (\d+) (\d+)", line) for line in lines)
    return {int(match[1]): int(match[2]) for match in found if match}


def offered(row: Identity, value: int) -> int:
    """What a row makes of the CPU's value, field by field."""
    result = value & row.keep_mask
    for name in (*row.keep, *row.limit):
        assert row.kind is not None
        bits = row.kind.FIELDS[name]
        version = (value & bits.mask) >> bits.low
        if version < row.least.get(name, 0) or (name in row.least and version == 15):
            version = 0
        result |= min(version, row.limit.get(name, version)) << bits.low
    for name, version in row.fixed.items():
        assert row.kind is not None
        result |= version << row.kind.FIELDS[name].low
    return result


@pytest.mark.parametrize("cpu", CPUS)
def test_identities(cpu: str) -> None:
    theirs = seen(bare("identities", cpu), "identity")
    lines = guest("identities", cpu)
    ours = seen(lines, "identity")
    rows = {row.number: row for row in IDENTITIES}
    assert ours.keys() == theirs.keys() >= set(range(8, 64)), "the ID space can be read as a whole"
    for number in range(8, 64):
        expected = offered(rows[number], theirs[number]) if number in rows else 0
        assert ours[number] == expected, f"CRm {number >> 3} op2 {number & 7}: {theirs[number]:#x}"
    assert (ours[MIDR], ours[REVIDR]) == (theirs[MIDR], theirs[REVIDR])
    assert ours[MPIDR] == 1 << 31, "no bits of the host's topology"
    assert not seen(lines, "wrong")
    assert {HIDDEN[i].name for i in seen(lines, "visible")} <= UNTRAPPED.get(cpu, set())


def test_every_hidden_register_is_tried() -> None:
    assert {"GMID_EL1", "GCR_EL1", "TFSR_EL1", "SVCR", "SMCR_EL1", "PMSCR_EL1", "TRBLIMITR_EL1"} <= {
        register.name for register in HIDDEN
    }
    assert all(TABLE[register.name] is register for register in HIDDEN)


@pytest.mark.parametrize("cpu", ["cortex-a72", "neoverse-n1", "a64fx", "max"])
def test_what_is_offered_is_there(cpu: str) -> None:
    """All features with instructions of their own that this CPU has, guests have, and none of them traps."""
    lines = guest("features", cpu)
    assert lines == bare("features", cpu) and not failed(lines)
