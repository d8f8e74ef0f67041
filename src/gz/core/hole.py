# SPDX-License-Identifier: Apache-2.0
"""A page of physical address space where the device tree has neither RAM nor a device: the doorbell."""

from __future__ import annotations

import gz.core.discovery as discovery
import gz.core.tree as tree
from gz.bits import Pa, u32, u64
from gz.core.discovery import buses
from gz.core.platform import machine, overlaps
from gz.core.tree import NONE, Tree, text
from gz.metal import inline

_RANGES = text("ranges")
#: The host maps it by its own pages, which may be of 64 KiB.
_GRANULE = 64 << 10
#: Candidates looked at behind a bank of RAM before the next bank's end is tried.
_ATTEMPTS = 64


def find(t: Tree, limit: u64) -> Pa:
    """The first free granule behind a bank of RAM, below `limit`; Pa(0) if there is none."""
    for i in range(machine.ram_count):
        bank = machine.ram[i]
        candidate = _align(bank.base + bank.size)
        for _ in range(_ATTEMPTS):
            if u64(candidate) + _GRANULE > limit:
                break
            end = _obstacle(t, candidate)
            if end == Pa(0):
                return candidate
            candidate = _align(end)
    return Pa(0)


def _obstacle(t: Tree, base: Pa) -> Pa:
    """The end of a device, a bus window or RAM that lies in the granule; Pa(0): nothing does."""
    node = tree.root(t)
    depth: u32 = 0
    while node != NONE:
        discovery.bus(t, node, depth)
        index: u32 = 0
        while True:
            start, size = discovery.region(t, node, depth, index)
            if start == Pa(0) and size == 0:
                break
            if overlaps(start, size, base, _GRANULE):
                return start + size
            index += 1
        end = _window(t, node, depth, base)
        if end != Pa(0):
            return end
        node, depth = tree.next_node(t, node, depth)
    return Pa(0)


def _window(t: Tree, node: u64, depth: u32, base: Pa) -> Pa:
    """What a bus passes on from the CPU's address space: its children's address, ours, the size."""
    if depth == 0 or depth >= tree.DEPTH_MAX or buses.identity[depth - 1] == 0:
        return Pa(0)
    at, length = tree.property(t, node, _RANGES)
    child: u64 = buses.address_cells[depth]
    parent = buses.address_cells[depth - 1]
    size_cells = buses.size_cells[depth]
    stride = 4 * (child + parent + size_cells)
    offset: u64 = 0
    while offset + stride <= length and stride != 0:
        start = Pa(tree.number(at + offset + 4 * child, parent))
        size = tree.number(at + offset + 4 * (child + parent), size_cells)
        if overlaps(start, size, base, _GRANULE):
            return start + size
        offset += stride
    return Pa(0)


@inline
def _align(base: Pa) -> Pa:
    return Pa((u64(base) + _GRANULE - 1) & ~(_GRANULE - 1))
