# SPDX-License-Identifier: Apache-2.0
"""From the device tree to `platform.machine`: one walk over the nodes.

An address counts only where every bus above the node passes addresses on unchanged (an empty `ranges`).
"""

from __future__ import annotations

import gz.core.placement as placement
import gz.core.tree as tree
from gz.arm64.descriptors import PAGE_SIZE
from gz.arm64.registers import MPIDR_AFFINITY
from gz.bits import Array, Pa, ReadOnly, Struct, Va, array, storage, u8, u32, u64
from gz.core.cpu import CPU_COUNT_MAX, CPUS
from gz.core.platform import (
    GUESTS_MAX,
    RAM_BANKS_MAX,
    RAMDISKS_MAX,
    REDISTRIBUTOR_REGIONS_MAX,
    PhysicalRange,
    machine,
)
from gz.core.tree import NONE, Tree, text
from gz.metal import inline, log, peek8

_ADDRESS_CELLS = text("#address-cells")
_SIZE_CELLS = text("#size-cells")
_RANGES = text("ranges")
_REG = text("reg")
_DEVICE_TYPE = text("device_type")
_MEMORY = text("memory")
_CPU = text("cpu")
_CHOSEN = text("chosen")
_ALIASES = text("aliases")
_RESERVED = text("reserved-memory")
_PSCI = text("psci")
_METHOD = text("method")
_SMC = text("smc")
_HVC = text("hvc")
_GIC = text("arm,gic-v3")
_REGIONS = text("#redistributor-regions")
_UART = text("arm,pl011")
_STDOUT = text("stdout-path")
_MODULE = text("multiboot,module")
_KERNEL = text("multiboot,kernel")
_RAMDISK = text("multiboot,ramdisk")
_ARGUMENTS = text("bootargs")
_GUEST = text("vm=")
_SIZE = text(" mem=")
_CPUS = text(" cpus=")
_STATUS = text("status")
_OKAY = text("okay")
_OK = text("ok")

_COLON = 0x3A
_SLASH = 0x2F
_SPACE = 0x20
_ZERO = 0x30
_NINE = 0x39

_GUEST_MEMORY = 128  # MiB
_SETTING_MAX = 1 << 20


class Buses(Struct):
    """By depth: how the node there numbers its children."""

    address_cells: Array[u32] = array(tree.DEPTH_MAX)
    size_cells: Array[u32] = array(tree.DEPTH_MAX)
    identity: Array[u32] = array(tree.DEPTH_MAX)  # the children's addresses are the CPU's


class Modules(Struct):
    """Ramdisks, as long as not all kernels are known."""

    ramdisks: Array[PhysicalRange] = array(RAMDISKS_MAX)
    ramdisk_count: u32


buses = storage(Buses)
modules = storage(Modules)


def bus(t: Tree, node: u64, depth: u32) -> None:
    """Note what `node` says about its children."""
    if depth >= tree.DEPTH_MAX:
        return
    buses.address_cells[depth] = tree.cell(t, node, _ADDRESS_CELLS, 2)
    buses.size_cells[depth] = tree.cell(t, node, _SIZE_CELLS, 1)
    identity: u32 = 1
    if depth != 0:
        at, length = tree.property(t, node, _RANGES)
        identity = buses.identity[depth - 1] if at != Va(0) and length == 0 else 0
    buses.identity[depth] = identity


def region(t: Tree, node: u64, depth: u32, index: u32) -> tuple[Pa, u64]:
    """An entry of `reg`; size 0 if there is none or the CPU's address is another."""
    if depth == 0 or depth >= tree.DEPTH_MAX or buses.identity[depth - 1] == 0:
        return Pa(0), 0
    at, length = tree.property(t, node, _REG)
    cells = buses.address_cells[depth - 1]
    stride = 4 * (u64(cells) + buses.size_cells[depth - 1])
    if cells == 0 or stride == 0 or (u64(index) + 1) * stride > length:
        return Pa(0), 0
    place = at + index * stride
    base = tree.number(place, cells)
    size = tree.number(place + 4 * u64(cells), buses.size_cells[depth - 1])
    if base + size < base:
        return Pa(0), 0
    return Pa(base), size


def enabled(t: Tree, node: u64) -> bool:
    at, length = tree.property(t, node, _STATUS)
    return at == Va(0) or tree.equal(at, length - 1, _OKAY) or tree.equal(at, length - 1, _OK)


def discover(t: Tree) -> None:
    """Fill `machine` and the CPUs' numbers."""
    stdout = _stdout(t)
    above: u64 = NONE  # the last child of the root
    node = tree.root(t)
    depth: u32 = 0
    while node != NONE:
        bus(t, node, depth)
        if depth == 1:
            above = node
        if depth == 1 and tree.string_is(t, node, _DEVICE_TYPE, _MEMORY):
            _memory(t, node)
        elif depth == 1 and tree.named(t, node, _PSCI):
            machine.psci_smc = 1 if tree.string_is(t, node, _METHOD, _SMC) else 0
            machine.psci_hvc = 1 if tree.string_is(t, node, _METHOD, _HVC) else 0
        elif depth == 2 and tree.string_is(t, node, _DEVICE_TYPE, _CPU):
            _cpu(t, node)
        elif depth == 2 and tree.compatible(t, node, _MODULE) and tree.named(t, above, _CHOSEN):
            _module(t, node)
        elif depth == 2 and tree.named(t, above, _RESERVED):
            _reserved(t, node)
        elif tree.compatible(t, node, _GIC):
            _interrupt_controller(t, node, depth)
        elif (
            tree.compatible(t, node, _UART)
            and enabled(t, node)
            and (machine.uart.size == 0 or node == stdout)
        ):
            _range(machine.uart, t, node, depth, 0)
        node, depth = tree.next_node(t, node, depth)
    _assign_ramdisks()


def _stdout(t: Tree) -> u64:
    """The node that /chosen/stdout-path names, by its path or by an alias, with or without settings."""
    chosen = _top(t, _CHOSEN)
    if chosen == NONE:
        return NONE
    at, length = tree.property(t, chosen, _STDOUT)
    end: u64 = 0
    while end < length and peek8(at + end) != 0 and peek8(at + end) != _COLON:
        end += 1
    if end == 0:
        return NONE
    if peek8(at) == _SLASH:
        return tree.find(t, at, end)
    aliases = _top(t, _ALIASES)
    if aliases == NONE:
        return NONE
    path, size = tree.property_by(t, aliases, at, end)
    return tree.find(t, path, size - 1) if size > 1 else NONE


def _top(t: Tree, wanted: ReadOnly[u8]) -> u64:
    """A child of the root by its name."""
    node = tree.root(t)
    depth: u32 = 0
    while node != NONE:
        if depth == 1 and tree.named(t, node, wanted):
            return node
        node, depth = tree.next_node(t, node, depth)
    return NONE


@inline
def _range(into: PhysicalRange, t: Tree, node: u64, depth: u32, index: u32) -> None:
    into.base, into.size = region(t, node, depth, index)


def _memory(t: Tree, node: u64) -> None:
    """Whole pages of a bank; a bank that continues another one is part of it."""
    index: u32 = 0
    while True:
        base, size = region(t, node, 1, index)
        if base == Pa(0) and size == 0:
            return
        first = (u64(base) + PAGE_SIZE - 1) & ~(PAGE_SIZE - 1)
        end = (u64(base) + size) & ~(PAGE_SIZE - 1)
        if first < end:
            _bank(Pa(first), end - first)
        index += 1


def _bank(base: Pa, size: u64) -> None:
    for i in range(machine.ram_count):
        bank = machine.ram[i]
        if bank.base + bank.size == base:
            bank.size += size
            return
        if base + size == bank.base:
            bank.base = base
            bank.size += size
            return
    if machine.ram_count < RAM_BANKS_MAX:
        bank = machine.ram[machine.ram_count]
        bank.base = base
        bank.size = size
        machine.ram_count += 1


def _cpu(t: Tree, node: u64) -> None:
    at, length = tree.property(t, node, _REG)
    cells = buses.address_cells[1]
    if length == 0 or length != 4 * u64(cells) or machine.cpu_count == CPU_COUNT_MAX:
        return
    cpu = CPUS[machine.cpu_count]
    cpu.index = machine.cpu_count
    cpu.mpidr = tree.number(at, cells) & MPIDR_AFFINITY
    machine.cpu_count += 1


def _module(t: Tree, node: u64) -> None:
    """A boot module. Loaders leave out the cell counts of /chosen: `reg` is address and size, equally wide."""
    reg, width = tree.property(t, node, _REG)
    if width != 8 and width != 16:
        return
    cells = u32(width // 8)
    base = Pa(tree.number(reg, cells))
    size = tree.number(reg + 4 * u64(cells), cells)
    if tree.compatible(t, node, _KERNEL):
        at, length = tree.property(t, node, _ARGUMENTS)
        if length > len(_GUEST) and tree.equal(at, len(_GUEST), _GUEST):
            _guest(base, size, at, length - 1)
            return
        machine.kernel.base = base
        machine.kernel.size = size
        if length != 0:
            machine.kernel_arguments = at
            machine.kernel_arguments_size = length - 1
    elif tree.compatible(t, node, _RAMDISK) and modules.ramdisk_count < RAMDISKS_MAX:
        ramdisk = modules.ramdisks[modules.ramdisk_count]
        ramdisk.base = base
        ramdisk.size = size
        modules.ramdisk_count += 1


def _guest(base: Pa, size: u64, arguments: Va, length: u64) -> None:
    """A kernel whose arguments begin with "vm=NAME mem=MIB cpus=N" is a guest's; the rest is for the guest."""
    if machine.guest_count == GUESTS_MAX:
        log("gz: more guests among the boot modules than there is room for")
        return
    guest = machine.guests[machine.guest_count]
    guest.index = machine.guest_count
    guest.kernel.base = base
    guest.kernel.size = size
    guest.name = arguments + len(_GUEST)
    at: u64 = len(_GUEST)
    while at < length and peek8(arguments + at) != _SPACE:
        at += 1
    guest.name_size = at - len(_GUEST)
    mebibytes, at = _setting(arguments, at, length, _SIZE, _GUEST_MEMORY)
    guest.memory.size = mebibytes << 20
    cpus, at = _setting(arguments, at, length, _CPUS, 1)
    guest.cpus = u32(cpus)
    if at < length and peek8(arguments + at) == _SPACE:
        at += 1
    guest.arguments = arguments + at
    guest.arguments_size = length - at
    machine.guest_count += 1


def _setting(arguments: Va, at: u64, length: u64, name: ReadOnly[u8], default: u64) -> tuple[u64, u64]:
    """The number behind `name` if that comes next, and where it ends."""
    if length - at <= len(name) or not tree.equal(arguments + at, len(name), name):
        return default, at
    at += len(name)
    value: u64 = 0
    while at < length and _ZERO <= peek8(arguments + at) <= _NINE and value < _SETTING_MAX:
        value = 10 * value + peek8(arguments + at) - _ZERO
        at += 1
    return value, at


def _assign_ramdisks() -> None:
    """A ramdisk is for the kernel that lies below it and next to it, else for the host's."""
    for i in range(modules.ramdisk_count):
        ramdisk = modules.ramdisks[i]
        best = GUESTS_MAX
        below = machine.kernel.base if machine.kernel.base < ramdisk.base else Pa(0)
        for k in range(machine.guest_count):
            kernel = machine.guests[k].kernel
            if kernel.base < ramdisk.base and kernel.base > below:
                best = k
                below = kernel.base
        into = machine.initrd if best == GUESTS_MAX else machine.guests[best].initrd
        into.base = ramdisk.base
        into.size = ramdisk.size


def _reserved(t: Tree, node: u64) -> None:
    """A child of /reserved-memory at a fixed place."""
    index: u32 = 0
    while True:
        base, size = region(t, node, 2, index)
        if base == Pa(0) and size == 0:
            return
        placement.take(base, size)
        index += 1


def _interrupt_controller(t: Tree, node: u64, depth: u32) -> None:
    """`reg`: the distributor, then the regions of redistributors (binding arm,gic-v3)."""
    _range(machine.distributor, t, node, depth, 0)
    count = min(tree.cell(t, node, _REGIONS, 1), REDISTRIBUTOR_REGIONS_MAX)
    for i in range(count):
        _range(machine.redistributors[i], t, node, depth, 1 + i)
    machine.redistributor_count = count
