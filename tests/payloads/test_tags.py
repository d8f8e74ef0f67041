# SPDX-License-Identifier: Apache-2.0
"""Tags of memory (FEAT_MTE2), which the host has and guests have not (M17)."""

from __future__ import annotations

import pytest
from emulator import host

from gz.arm64.syndrome import ESR_EL2, UNDEFINED, DataAbort, ExceptionClass, FaultStatus
from payloads.tags import HOSTS, STORES


@pytest.mark.parametrize("cpus", [1, 2, 4])
def test_tags_are_nothing_that_a_guest_leaves_or_finds(cpus: int) -> None:
    """M17: it reads 0 and changes none, so what the host reads of a reclaimed page is its own; of a private one
    nothing."""
    tagged, private, before, *tried, rgsr, after = host("tags", cpu="max", cpus=cpus)
    assert tagged == f"host: tags {HOSTS}"
    for word in private.removeprefix("host: ldg ").split(", stg "):
        esr = ESR_EL2(int(word, 16))
        assert esr.EC == ExceptionClass.DATA_ABORT_SAME and DataAbort(esr.ISS).DFSC == FaultStatus.ALIGNMENT
    assert before == "guest: tags 0, word 0x1234"
    assert tried == [f"guest: {name} 0x0, tags 0" for name, _ in STORES]
    assert rgsr == f"guest: rgsr_el1 {int(UNDEFINED):#x}"
    assert after == f"host: tags {HOSTS}, 0 words left"


def test_without_tags_the_instructions_are_undefined() -> None:
    """M17."""
    lines = host("tags", cpu="cortex-a76")
    assert [line.split(", ")[0] for line in lines[3:-2]] == [f"guest: {name} {int(UNDEFINED):#x}" for name, _ in STORES]
