# SPDX-License-Identifier: Apache-2.0
"""The host's device tree: the loader's, token by token, with the core's part removed, reserved and announced.

Removed: boot modules, the loader's kernel arguments. Set: /chosen/bootargs and initrd. Added: `hypervisor`
(gz.abi.doorbell), children of /reserved-memory with `no-map` for the core's memory.
"""

from __future__ import annotations

import gz.core.tree as tree
import gz.core.tree_writer as writer
from gz.abi import doorbell
from gz.arm64.fdt import FdtHeader, FdtReservation, FdtToken
from gz.bits import Pa, Va, sizeof, u32, u64
from gz.core.memory import memcpy
from gz.core.platform import machine
from gz.core.tree import NONE, Tree, text
from gz.metal import address, byte_swap, view

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

#: Room for all that is added but the kernel's arguments, whose length is the module's.
ADDITION = 0x1000


def room(t: Tree) -> u64:
    """Bytes that `write` needs at most."""
    return t.size + ADDITION + machine.kernel_arguments_size


def write(t: Tree, to: Va) -> u64:
    """Write the host's tree to `to`, 8-byte aligned, with `room` bytes; its size. 0: `t` is broken."""
    reservations: u64 = sizeof(FdtHeader)
    reservations_size = _reservations_size(t)
    if reservations + reservations_size + t.structure_size + t.strings_size > t.size:
        return 0
    _copy_reservations(t, to + reservations)
    structure = reservations + reservations_size
    writer.open(to + structure, t.strings_size)
    if not _nodes(t):
        return 0
    strings = structure + writer.output.size
    memcpy(to + strings, t.strings, t.strings_size)
    memcpy(to + strings + t.strings_size, address(_STRINGS), len(_STRINGS))
    boot_cpu = view(FdtHeader, t.base).boot_cpuid_phys
    return writer.header(to, reservations, structure, strings, t.strings_size + len(_STRINGS), boot_cpu)


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
                writer.token(FdtToken.END_NODE)
            if depth == dropped:
                dropped = 0
            if depth == 2:
                inside_chosen = False
                inside_reserved = False
            depth -= 1
            if depth == 0:
                writer.token(FdtToken.END)
                return True
        elif kind == FdtToken.PROP and dropped == 0 and not (inside_chosen and depth == 2 and _replaced(t, offset)):
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
        writer.property(_BOOTARGS, machine.kernel_arguments_size + 1)
        writer.data(machine.kernel_arguments, machine.kernel_arguments_size + 1)
        writer.pad()
    initrd = machine.initrd
    if initrd.size != 0:
        writer.property(_INITRD_START, 8)
        writer.number(u64(initrd.base), 2)
        writer.property(_INITRD_END, 8)
        writer.number(u64(initrd.base) + initrd.size, 2)


def _missing_nodes(t: Tree, chosen: bool, reserved: bool) -> None:
    """At the end of the root's children."""
    if not chosen:
        writer.begin(_CHOSEN)
        _chosen_properties()
        writer.token(FdtToken.END_NODE)
    if not reserved:
        address_cells, size_cells = _root_cells(t)
        writer.begin(_RESERVED)
        writer.property(_ADDRESS_CELLS, 4)
        writer.word(address_cells)
        writer.property(_SIZE_CELLS, 4)
        writer.word(size_cells)
        writer.property(_RANGES, 0)
        _reservations(t)
        writer.token(FdtToken.END_NODE)
    writer.begin(_HYPERVISOR)
    writer.property(_COMPATIBLE, len(_HYPERVISOR_COMPATIBLE))
    writer.data(address(_HYPERVISOR_COMPATIBLE), len(_HYPERVISOR_COMPATIBLE))
    writer.pad()
    writer.property(_DOORBELL, 16)
    writer.number(u64(machine.doorbell), 2)
    writer.number(doorbell.DOORBELL_SIZE, 2)
    writer.token(FdtToken.END_NODE)


def _root_cells(t: Tree) -> tuple[u32, u32]:
    """The binding wants the cells of /reserved-memory to be the root's."""
    node = tree.root(t)
    if node == NONE:
        return 2, 1
    return tree.cell(t, node, _ROOT_ADDRESS_CELLS, 2), tree.cell(t, node, _ROOT_SIZE_CELLS, 1)


_ROOT_ADDRESS_CELLS = text("#address-cells")
_ROOT_SIZE_CELLS = text("#size-cells")


def _reservations(t: Tree) -> None:
    """Guests of the loader's; the core's image and its frames, which may follow each other."""
    for i in range(machine.guest_count):
        memory = machine.guests[i].memory
        if memory.size != 0:
            _reservation(t, memory.base, memory.size)
    image = machine.image
    pool = machine.pool
    if image.base + image.size == pool.base:
        _reservation(t, image.base, image.size + pool.size)
        return
    _reservation(t, image.base, image.size)
    _reservation(t, pool.base, pool.size)


def _reservation(t: Tree, base: Pa, size: u64) -> None:
    address_cells, size_cells = _root_cells(t)
    writer.token(FdtToken.BEGIN_NODE)
    writer.data(address(_CORE), len(_CORE))
    writer.hexadecimal(u64(base))
    writer.byte(0)
    writer.pad()
    writer.property(_REG, 4 * (u64(address_cells) + size_cells))
    writer.number(u64(base), address_cells)
    writer.number(size, size_cells)
    writer.property(_NO_MAP, 0)
    writer.token(FdtToken.END_NODE)


def _copy(t: Tree, offset: u64, end: u64) -> None:
    writer.data(t.structure + offset, end - offset)
