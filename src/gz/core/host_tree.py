# SPDX-License-Identifier: Apache-2.0
"""The host's device tree: the loader's, token by token, with the core's part removed, reserved and announced.

Removed: boot modules, the loader's kernel arguments. Set: /chosen/bootargs and initrd. Added: `hypervisor`
(gz.abi.doorbell), children of /reserved-memory with `no-map` for the core's memory.
"""

from __future__ import annotations

import gz.core.tree as tree
from gz.abi import doorbell
from gz.arm64.fdt import LAST_COMPATIBLE_VERSION, MAGIC, VERSION, FdtHeader, FdtReservation, FdtToken
from gz.bits import Pa, ReadOnly, Struct, Va, sizeof, storage, u8, u32, u64
from gz.core.memory import memcpy
from gz.core.platform import machine
from gz.core.tree import NONE, Tree, text
from gz.metal import address, byte_swap, count_leading_zeros, poke8, poke32, view

_NAMES = (
    "bootargs",
    "linux,initrd-start",
    "linux,initrd-end",
    "compatible",
    doorbell.PROPERTY,
    "reg",
    "no-map",
    "ranges",
    "#address-cells",
    "#size-cells",
)
#: Appended to the loader's strings block; a name that is there already may be there twice.
_STRINGS = text("".join(f"{name}\0" for name in _NAMES))
(
    _BOOTARGS,
    _INITRD_START,
    _INITRD_END,
    _COMPATIBLE,
    _DOORBELL,
    _REG,
    _NO_MAP,
    _RANGES,
    _ADDRESS_CELLS,
    _SIZE_CELLS,
) = (sum(len(name) + 1 for name in _NAMES[:i]) for i in range(len(_NAMES)))

_REPLACED = tuple(text(name) for name in _NAMES[:3])
_CHOSEN = text("chosen")
_RESERVED = text("reserved-memory")
_HYPERVISOR = text(doorbell.NODE)
_MODULE = text("multiboot,module")
_CORE = text("core@")
_HYPERVISOR_COMPATIBLE = text("".join(f"{string}\0" for string in doorbell.COMPATIBLE))
_DIGITS = text("0123456789abcdef")

#: Room for all that is added but the kernel's arguments, whose length is the module's.
ADDITION = 0x1000


class Output(Struct):
    start: Va  # of the structure block
    size: u64
    names: u64  # size of the loader's strings block: ours follow


output = storage(Output)


def room(t: Tree) -> u64:
    """Bytes that `write` needs at most."""
    return t.size + ADDITION + machine.kernel_arguments_size


def write(t: Tree, to: Va) -> u64:
    """Write the host's tree to `to`, 8-byte aligned, with `room` bytes; its size. 0: `t` is broken."""
    header = view(FdtHeader, to)
    reservations: u64 = sizeof(FdtHeader)
    reservations_size = _reservations_size(t)
    if reservations + reservations_size + t.structure_size + t.strings_size > t.size:
        return 0
    _copy_reservations(t, to + reservations)
    structure = reservations + reservations_size
    output.start = to + structure
    output.size = 0
    output.names = t.strings_size
    if not _nodes(t):
        return 0
    strings = structure + output.size
    memcpy(to + strings, t.strings, t.strings_size)
    memcpy(to + strings + t.strings_size, address(_STRINGS), len(_STRINGS))
    strings_size = t.strings_size + len(_STRINGS)
    size = (strings + strings_size + 7) & ~7
    header.magic = byte_swap(u32(MAGIC))
    header.totalsize = byte_swap(u32(size))
    header.off_dt_struct = byte_swap(u32(structure))
    header.off_dt_strings = byte_swap(u32(strings))
    header.off_mem_rsvmap = byte_swap(u32(reservations))
    header.version = byte_swap(u32(VERSION))
    header.last_comp_version = byte_swap(u32(LAST_COMPATIBLE_VERSION))
    header.boot_cpuid_phys = view(FdtHeader, t.base).boot_cpuid_phys
    header.size_dt_strings = byte_swap(u32(strings_size))
    header.size_dt_struct = byte_swap(u32(output.size))
    return size


def _reservations_size(t: Tree) -> u64:
    """Of the reservation block with its final zeros."""
    index: u64 = 0
    while True:
        _, length = tree.reservation(t, index)
        index += 1
        if length == 0:
            return index * sizeof(FdtReservation)


def _copy_reservations(t: Tree, to: Va) -> None:
    for index in range(_reservations_size(t) // sizeof(FdtReservation)):
        base, length = tree.reservation(t, index)
        entry = view(FdtReservation, to + index * sizeof(FdtReservation))
        entry.address = byte_swap(base)
        entry.length = byte_swap(length)


def _nodes(t: Tree) -> bool:
    """The structure block; False: the root's node does not end."""
    offset = tree.root(t)
    depth: u32 = 0  # nodes that are open
    dropped: u32 = 0  # depth at which a node that is left out began, 0: none
    inside_chosen = False
    inside_reserved = False
    chosen = False
    reserved = False
    while True:
        kind = tree.token(t, offset)
        following = tree.after(t, offset)
        if kind == FdtToken.END or following == offset:
            return False
        if kind == FdtToken.BEGIN_NODE:
            depth += 1
            if dropped == 0 and _left_out(t, offset, depth):
                dropped = depth
            if dropped == 0:
                _copy(t, offset, following)
                if depth == 2 and not chosen and tree.named(t, offset, _CHOSEN):
                    chosen = True
                    inside_chosen = True
                    _chosen_properties()
                elif depth == 2 and not reserved and tree.named(t, offset, _RESERVED):
                    reserved = True
                    inside_reserved = True
        elif kind == FdtToken.END_NODE:
            if dropped == 0:
                if depth == 2 and inside_reserved:
                    _reservations(t)
                elif depth == 1:
                    _missing_nodes(t, chosen, reserved)
                _token(FdtToken.END_NODE)
            if depth == dropped:
                dropped = 0
            if depth == 2:
                inside_chosen = False
                inside_reserved = False
            depth -= 1
            if depth == 0:
                _token(FdtToken.END)
                return True
        elif (
            kind == FdtToken.PROP
            and dropped == 0
            and not (inside_chosen and depth == 2 and _replaced(t, offset))
        ):
            _copy(t, offset, following)
        offset = following


def _left_out(t: Tree, node: u64, depth: u32) -> bool:
    if depth == 2:
        return tree.named(t, node, _HYPERVISOR)
    return depth == 3 and tree.compatible(t, node, _MODULE)


def _replaced(t: Tree, offset: u64) -> bool:
    return (
        tree.property_is(t, offset, _REPLACED[0])
        or tree.property_is(t, offset, _REPLACED[1])
        or tree.property_is(t, offset, _REPLACED[2])
    )


def _chosen_properties() -> None:
    if machine.kernel_arguments_size != 0:
        _property(_BOOTARGS, machine.kernel_arguments_size + 1)
        _bytes(machine.kernel_arguments, machine.kernel_arguments_size + 1)
        _pad()
    initrd = machine.initrd
    if initrd.size != 0:
        _property(_INITRD_START, 8)
        _cells(u64(initrd.base), 2)
        _property(_INITRD_END, 8)
        _cells(u64(initrd.base) + initrd.size, 2)


def _missing_nodes(t: Tree, chosen: bool, reserved: bool) -> None:
    """At the end of the root's children."""
    if not chosen:
        _begin(_CHOSEN)
        _chosen_properties()
        _token(FdtToken.END_NODE)
    if not reserved:
        address_cells, size_cells = _root_cells(t)
        _begin(_RESERVED)
        _property(_ADDRESS_CELLS, 4)
        _word(address_cells)
        _property(_SIZE_CELLS, 4)
        _word(size_cells)
        _property(_RANGES, 0)
        _reservations(t)
        _token(FdtToken.END_NODE)
    _begin(_HYPERVISOR)
    _property(_COMPATIBLE, len(_HYPERVISOR_COMPATIBLE))
    _bytes(address(_HYPERVISOR_COMPATIBLE), len(_HYPERVISOR_COMPATIBLE))
    _pad()
    _property(_DOORBELL, 16)
    _cells(u64(machine.doorbell), 2)
    _cells(doorbell.DOORBELL_SIZE, 2)
    _token(FdtToken.END_NODE)


def _root_cells(t: Tree) -> tuple[u32, u32]:
    """The binding wants the cells of /reserved-memory to be the root's."""
    node = tree.root(t)
    if node == NONE:
        return 2, 1
    return tree.cell(t, node, _ROOT_ADDRESS_CELLS, 2), tree.cell(t, node, _ROOT_SIZE_CELLS, 1)


_ROOT_ADDRESS_CELLS = text("#address-cells")
_ROOT_SIZE_CELLS = text("#size-cells")


def _reservations(t: Tree) -> None:
    """The core's image and its frames, which may follow each other."""
    image = machine.image
    pool = machine.pool
    if image.base + image.size == pool.base:
        _reservation(t, image.base, image.size + pool.size)
        return
    _reservation(t, image.base, image.size)
    _reservation(t, pool.base, pool.size)


def _reservation(t: Tree, base: Pa, size: u64) -> None:
    address_cells, size_cells = _root_cells(t)
    _token(FdtToken.BEGIN_NODE)
    _bytes(address(_CORE), len(_CORE))
    _hexadecimal(u64(base))
    _byte(0)
    _pad()
    _property(_REG, 4 * (u64(address_cells) + size_cells))
    _cells(u64(base), address_cells)
    _cells(size, size_cells)
    _property(_NO_MAP, 0)
    _token(FdtToken.END_NODE)


def _begin(name: ReadOnly[u8]) -> None:
    _token(FdtToken.BEGIN_NODE)
    _bytes(address(name), len(name))
    _byte(0)
    _pad()


def _property(name: u64, length: u64) -> None:
    """The head of a property; `name`: offset among our own strings."""
    _token(FdtToken.PROP)
    _word(u32(length))
    _word(u32(output.names + name))


def _cells(value: u64, cells: u32) -> None:
    if cells == 2:
        _word(u32(value >> 32))
    _word(u32(value))


def _hexadecimal(value: u64) -> None:
    digits = max((67 - count_leading_zeros(value)) // 4, 1)
    while digits != 0:
        digits -= 1
        _byte(_DIGITS[(value >> (4 * digits)) & 0xF])


def _token(kind: FdtToken) -> None:
    _word(u32(kind))


def _word(value: u32) -> None:
    poke32(output.start + output.size, byte_swap(value))
    output.size += 4


def _byte(value: u8) -> None:
    poke8(output.start + output.size, value)
    output.size += 1


def _bytes(from_: Va, size: u64) -> None:
    memcpy(output.start + output.size, from_, size)
    output.size += size


def _pad() -> None:
    while output.size & 3 != 0:
        _byte(0)


def _copy(t: Tree, offset: u64, end: u64) -> None:
    _bytes(t.structure + offset, end - offset)
