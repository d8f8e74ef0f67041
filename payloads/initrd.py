# SPDX-License-Identifier: Apache-2.0
"""What the loader gave a payload beside itself (Linux, Documentation/devicetree/bindings/chosen.txt)."""

from __future__ import annotations

import gz.core.tree as trees
from gz.bits import ReadOnly, Va, storage, u8, u32, u64
from gz.core.tree import Tree, text
from gz.metal import address, panic

_ROOM = 2 << 20
_CHOSEN = text("/chosen")
_START = text("linux,initrd-start")
_END = text("linux,initrd-end")

TREE = storage(Tree)


def find(tree: Va) -> tuple[u64, u64]:
    """The initrd's address and size in bytes, by the tree at `tree`."""
    if not trees.open(TREE, tree, _ROOM):
        panic("no device tree\n")
    start = _number(_START)
    return start, _number(_END) - start


def _number(name: ReadOnly[u8]) -> u64:
    """A property of /chosen, of one or two cells."""
    node = trees.find(TREE, address(_CHOSEN), len(_CHOSEN))
    value, length = trees.property(TREE, node, name)
    return trees.number(value, u32(length // 4))
