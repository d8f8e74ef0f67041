# SPDX-License-Identifier: Apache-2.0
"""Reading a flattened device tree in place (Devicetree Specification 0.4, chapter 5).

A node is the offset of its BEGIN_NODE token in the structure block; NONE is no node. Whatever the blob holds,
no read leaves it: a broken structure looks as if it ended there.
"""

from __future__ import annotations

from gz.arm64.fdt import MAGIC, VERSION, FdtHeader, FdtReservation, FdtToken
from gz.bits import ReadOnly, Struct, Va, sizeof, table, u8, u32, u64
from gz.metal import address, byte_swap, inline, peek8, peek32, view

NONE = 0xFFFF_FFFF
ROOT_DEPTH = 0
DEPTH_MAX = 16

_TOKEN = 4
_PROPERTY = 8  # length and name behind the token


class Tree(Struct):
    base: Va
    size: u64
    structure: Va
    structure_size: u64
    strings: Va
    strings_size: u64
    reservations: Va
    reservations_end: Va


def text(value: str) -> ReadOnly[u8]:
    """A constant to compare names and values with."""
    return table(u8, list(value.encode()))


_COMPATIBLE = text("compatible")


@inline
def big32(at: Va) -> u32:
    return byte_swap(peek32(at))


def open(tree: Tree, base: Va, room: u64) -> bool:
    """Look at the blob at `base`, at most `room` bytes. False if it is none; then the tree is empty."""
    header = view(FdtHeader, base)
    tree.base = base
    tree.size = 0
    tree.structure_size = 0
    tree.strings_size = 0
    if u64(base) & 7 != 0 or room < sizeof(FdtHeader) or byte_swap(header.magic) != MAGIC:
        return False
    size = byte_swap(header.totalsize)
    structure, structure_size = byte_swap(header.off_dt_struct), byte_swap(header.size_dt_struct)
    strings, strings_size = byte_swap(header.off_dt_strings), byte_swap(header.size_dt_strings)
    reservations = byte_swap(header.off_mem_rsvmap)
    if size > room or byte_swap(header.version) < VERSION or byte_swap(header.last_comp_version) > VERSION:
        return False
    if (structure | structure_size) & 3 != 0 or reservations & 7 != 0:
        return False
    if not _within(structure, structure_size, size) or not _within(strings, strings_size, size):
        return False
    if not _within(reservations, sizeof(FdtReservation), size):
        return False
    tree.size = size
    tree.structure = base + structure
    tree.structure_size = structure_size
    tree.strings = base + strings
    tree.strings_size = strings_size
    tree.reservations = base + reservations
    tree.reservations_end = base + size
    return True


@inline
def _within(offset: u32, length: u32, size: u32) -> bool:
    return offset <= size and length <= size - offset


def reservation(tree: Tree, index: u64) -> tuple[u64, u64]:
    """Address and length of an entry of the reservation block; length 0 behind the last."""
    at = tree.reservations + index * sizeof(FdtReservation)
    if tree.size == 0 or at + sizeof(FdtReservation) > tree.reservations_end:
        return 0, 0
    entry = view(FdtReservation, at)
    return byte_swap(entry.address), byte_swap(entry.length)


@inline
def token(tree: Tree, offset: u64) -> u32:
    """The token at an offset; END outside of the structure block."""
    if offset + _TOKEN > tree.structure_size:
        return FdtToken.END
    return big32(tree.structure + offset)


def after(tree: Tree, offset: u64) -> u64:
    """The offset behind the token at `offset` and all that belongs to it."""
    kind = token(tree, offset)
    end = tree.structure_size
    at = offset + _TOKEN
    if kind == FdtToken.BEGIN_NODE:
        while at < end and peek8(tree.structure + at) != 0:
            at += 1
        at = (at + 1 + 3) & ~3
    elif kind == FdtToken.PROP:
        if at + _PROPERTY > end:
            return end
        length: u64 = big32(tree.structure + at)
        at += _PROPERTY + ((length + 3) & ~3)
    elif kind != FdtToken.END_NODE and kind != FdtToken.NOP:
        return end
    return min(at, end)


def root(tree: Tree) -> u64:
    offset: u64 = 0
    while token(tree, offset) == FdtToken.NOP:
        offset += _TOKEN
    return offset if token(tree, offset) == FdtToken.BEGIN_NODE else NONE


def next_node(tree: Tree, node: u64, depth: u32) -> tuple[u64, u32]:
    """The node that follows in the blob, and its depth; NONE at the end. The root's depth is 0."""
    offset = after(tree, node)
    level = depth + 1  # of a node that begins here
    while True:
        kind = token(tree, offset)
        if kind == FdtToken.BEGIN_NODE:
            return offset, level
        if kind == FdtToken.END_NODE:
            level -= 1
            if level == ROOT_DEPTH:
                return NONE, 0
        elif kind == FdtToken.END or offset >= tree.structure_size:
            return NONE, 0
        offset = after(tree, offset)


def name(tree: Tree, node: u64) -> tuple[Va, u64]:
    """A node's name and its length."""
    start = node + _TOKEN
    end = start
    while end < tree.structure_size and peek8(tree.structure + end) != 0:
        end += 1
    return tree.structure + start, end - start


def property(tree: Tree, node: u64, wanted: ReadOnly[u8]) -> tuple[Va, u64]:
    """A property's value and its length; Va(0) if the node has none of that name."""
    return property_by(tree, node, address(wanted), len(wanted))


def property_by(tree: Tree, node: u64, wanted: Va, length: u64) -> tuple[Va, u64]:
    """The same by a name that lies somewhere."""
    offset = after(tree, node)
    while True:
        kind = token(tree, offset)
        following = after(tree, offset)
        if kind == FdtToken.PROP:
            if _property_named(tree, offset, wanted, length):
                return property_value(tree, offset)
        elif kind != FdtToken.NOP or following == offset:
            return Va(0), 0
        offset = following


def property_value(tree: Tree, offset: u64) -> tuple[Va, u64]:
    """Value and length of the property whose token is at `offset`, cut where the structure ends."""
    start = offset + _TOKEN + _PROPERTY
    if start > tree.structure_size:
        return Va(0), 0
    length: u64 = big32(tree.structure + offset + _TOKEN)
    return tree.structure + start, min(length, tree.structure_size - start)


@inline
def property_is(tree: Tree, offset: u64, wanted: ReadOnly[u8]) -> bool:
    """Whether the property whose token is at `offset` has that name."""
    return _property_named(tree, offset, address(wanted), len(wanted))


def _property_named(tree: Tree, offset: u64, wanted: Va, length: u64) -> bool:
    if offset + _TOKEN + _PROPERTY > tree.structure_size:
        return False
    position: u64 = big32(tree.structure + offset + 2 * _TOKEN)
    if position > tree.strings_size or tree.strings_size - position <= length:
        return False
    string = tree.strings + position
    return _same(string, wanted, length) and peek8(string + length) == 0


def equal(at: Va, length: u64, wanted: ReadOnly[u8]) -> bool:
    """Whether `length` bytes are exactly those."""
    if length != len(wanted):
        return False
    for i in range(len(wanted)):
        if peek8(at + i) != wanted[i]:
            return False
    return True


def named(tree: Tree, node: u64, wanted: ReadOnly[u8]) -> bool:
    """Whether the node has that name, with or without a unit address."""
    at, length = name(tree, node)
    count: u64 = len(wanted)
    if length > count and peek8(at + count) == 0x40:  # @
        length = count
    return equal(at, length, wanted)


def string_is(tree: Tree, node: u64, wanted: ReadOnly[u8], value: ReadOnly[u8]) -> bool:
    """Whether a property is one string, that one."""
    at, length = property(tree, node, wanted)
    return length > 0 and equal(at, length - 1, value)


def compatible(tree: Tree, node: u64, wanted: ReadOnly[u8]) -> bool:
    """Whether `compatible` lists that string."""
    at, length = property(tree, node, _COMPATIBLE)
    start: u64 = 0
    for i in range(length):
        if peek8(at + i) == 0:
            if equal(at + start, i - start, wanted):
                return True
            start = i + 1
    return False


def cell(tree: Tree, node: u64, wanted: ReadOnly[u8], otherwise: u32) -> u32:
    """A property of one cell."""
    at, length = property(tree, node, wanted)
    return big32(at) if length == 4 else otherwise


def number(at: Va, cells: u32) -> u64:
    """The low 64 bits of a number of some cells."""
    value: u64 = 0
    for i in range(cells):
        value = value << 32 | big32(at + 4 * u64(i))
    return value


def find(tree: Tree, path: Va, length: u64) -> u64:
    """The node of a path such as /soc/uart@0; NONE."""
    node = root(tree)
    depth: u32 = 0
    matched: u32 = 0  # components of the path that lead to here
    position: u64 = 0  # behind them
    if length == 0 or peek8(path) != 0x2F:
        return NONE
    if length == 1:
        return node
    position = 1
    while node != NONE:
        node, depth = next_node(tree, node, depth)
        if node == NONE or depth <= matched:
            return NONE
        if depth == matched + 1:
            end = position
            while end < length and peek8(path + end) != 0x2F:
                end += 1
            at, size = name(tree, node)
            if size == end - position and _same(at, path + position, size):
                if end == length:
                    return node
                matched += 1
                position = end + 1
    return NONE


def _same(a: Va, b: Va, length: u64) -> bool:
    for i in range(length):
        if peek8(a + i) != peek8(b + i):
            return False
    return True
