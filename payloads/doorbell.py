# SPDX-License-Identifier: Apache-2.0
"""A host that rings the doorbell with anything: random calls, every kind of access, anywhere in the page.

Prints counts: what was answered, and how many of the accesses ended in an exception.
"""

from __future__ import annotations

import gz.core.tree as trees
from gz.abi.calls import CALL_COUNT, SMC32_BASE, SMC64_BASE
from gz.abi.doorbell import DOORBELL_SIZE, NODE, PROPERTY
from gz.abi.errors import Error
from gz.arm64.insn import doorbell
from gz.bits import Struct, Va, storage, u32, u64
from gz.core.tree import Tree, text
from gz.metal import address, export, log, panic, unroll
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.accesses import COUNT, access, allow
from payloads.random import random, seed

ROUNDS = 4096
_TREE_ROOM = 2 << 20
_NODE = text(f"/{NODE}")
_PROPERTY = text(PROPERTY)
_SEED = 88172645463325252
_STEP = 1000


class Outcomes(Struct):
    calls: u32
    errors: u32
    values: u32
    exceptions: u32


OUTCOMES = storage(Outcomes)
TREE = storage(Tree)


def ring(page: Va, function: u64, mask: u64) -> None:
    """One call; its arguments are random within the bits of the mask."""
    a, b, c, d = random() & mask, random() & mask, random() & mask, random() & mask
    x0, _, _, _ = doorbell(page, function, a, b, c, d, b, c, a)
    OUTCOMES.calls += 1
    if exceptions.taken() != 0:
        OUTCOMES.exceptions += 1
    elif x0 == Error.NO_ERROR:
        OUTCOMES.values += 1
    else:
        OUTCOMES.errors += 1


def calls(page: Va) -> None:
    for _ in range(ROUNDS):
        ring(page, random(), ~u64(0))
    for index in range(CALL_COUNT):
        for base in unroll((SMC32_BASE, SMC64_BASE)):
            for mask in unroll((0, 7, 0xFFFF, 0x7FFF_F000, 0xFFFF_FFFF_FFFF_FFFF)):
                ring(page, base + index, mask)


def accesses(page: Va) -> None:
    for offset in range(0, DOORBELL_SIZE, _STEP):
        for index in range(COUNT):
            OUTCOMES.calls += 1
            if access(u32(index), u64(page) + offset) != 0:
                OUTCOMES.exceptions += 1
            else:
                OUTCOMES.values += 1


def report() -> None:
    log(
        f"{OUTCOMES.calls} made, {OUTCOMES.errors} errors, {OUTCOMES.values} went through, "
        f"{OUTCOMES.exceptions} exceptions"
    )
    OUTCOMES.calls = 0
    OUTCOMES.errors = 0
    OUTCOMES.values = 0
    OUTCOMES.exceptions = 0


@export
def payload(blob: Va) -> None:
    if not trees.open(TREE, blob, _TREE_ROOM):
        panic("no device tree")
    value, length = trees.property(TREE, trees.find(TREE, address(_NODE), len(_NODE)), _PROPERTY)
    if length != 16:
        panic("no doorbell")
    page = Va(trees.number(value, 2))
    allow()
    seed(_SEED)
    exceptions.expect()
    log("calls")
    calls(page)
    report()
    log("accesses")
    accesses(page)
    report()
    log("the host lives")
