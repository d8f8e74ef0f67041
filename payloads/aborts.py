# SPDX-License-Identifier: Apache-2.0
"""A host that touches what its device tree reserves for the core, with every kind of access, from each CPU.

Prints for each region how many accesses ended in an external abort, in another exception, or had no effect, as
cache maintenance and address translation may have.
"""

from __future__ import annotations

import gz.core.tree as trees
from gz.abi.run import PAGE_SIZE
from gz.arm64.syndrome import ESR_EL2, DataAbort, ExceptionClass, FaultStatus
from gz.bits import Struct, Va, storage, u32, u64
from gz.core.tree import Tree, text
from gz.metal import address, export, log, panic, unroll
from payloads import cores, exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.accesses import COUNT, access, allow

_TREE_ROOM = 2 << 20
_RESERVED = text("/reserved-memory")
_REG = text("reg")


class Outcomes(Struct):
    aborts: u32
    exceptions: u32
    nothing: u32


class Region(Struct):
    base: u64
    size: u64


OUTCOMES = storage(Outcomes)
REGION = storage(Region)
TREE = storage(Tree)


def touch(at: u64) -> None:
    for index in range(COUNT):
        esr = ESR_EL2(access(u32(index), at))
        if esr == 0:
            OUTCOMES.nothing += 1
        elif esr.EC == ExceptionClass.DATA_ABORT_SAME and DataAbort(esr.ISS).DFSC == FaultStatus.EXTERNAL:
            OUTCOMES.aborts += 1
        else:
            OUTCOMES.exceptions += 1


def attack(base: u64, size: u64) -> None:
    OUTCOMES.aborts = 0
    OUTCOMES.exceptions = 0
    OUTCOMES.nothing = 0
    for offset in unroll((0, 8)):
        touch(base + offset)
        touch(base + size // 2 + offset)
        touch(base + size - PAGE_SIZE + offset)
    log(
        f"{size} bytes at {base:#x}: {OUTCOMES.aborts} aborts, {OUTCOMES.exceptions} exceptions, "
        f"{OUTCOMES.nothing} without effect"
    )


@export
def job(cpu: u64, number: u64) -> u64:
    allow()
    attack(REGION.base, REGION.size)
    return 0


@export
def payload(blob: Va) -> None:
    if not trees.open(TREE, blob, _TREE_ROOM):
        panic("no device tree")
    exceptions.expect()
    count = cores.count()
    for cpu in range(1, count):
        if not cores.switch_on(cpu):
            panic("a CPU does not start\n")
    node, depth = trees.next_node(TREE, trees.find(TREE, address(_RESERVED), len(_RESERVED)), 1)
    while depth == 2:
        value, length = trees.property(TREE, node, _REG)
        if length == 16:
            REGION.base = trees.number(value, 2)
            REGION.size = trees.number(value + 8, 2)
            job(0, 0)
            for cpu in range(1, count):
                if cores.run(cpu, 0) != 0:
                    panic("a CPU does not come back\n")
        node, depth = trees.next_node(TREE, node, depth)
    log("the host lives")
