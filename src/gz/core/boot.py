# SPDX-License-Identifier: Apache-2.0
"""The order of starting: tree, memory, MMU, GIC, host; then each CPU that the host switches on."""

from __future__ import annotations

from typing import NoReturn

import gz.core.coherency as coherency
import gz.core.console as console
import gz.core.discovery as discovery
import gz.core.firmware as firmware
import gz.core.frames as frames
import gz.core.gic as gic
import gz.core.hole as hole
import gz.core.host as host
import gz.core.host_tree as host_tree
import gz.core.image as image
import gz.core.memory as memory
import gz.core.mmu as mmu
import gz.core.pages as pages
import gz.core.panic as dying
import gz.core.placement as placement
import gz.core.power as power
import gz.core.resident as resident
import gz.core.stage2 as stage2
import gz.core.tree as tree
from gz.arm64.descriptors import BLOCK_SIZE, PAGE_MASK, PAGE_SHIFT, PAGE_SIZE
from gz.arm64.fdt import SIZE_MAX, FdtHeader
from gz.arm64.image import LOAD_ALIGNMENT, MAGIC, ImageFlags, ImageHeader
from gz.arm64.insn import isb
from gz.arm64.psci import AffinityState
from gz.arm64.registers import MPIDR_AFFINITY
from gz.arm64.sysreg import sysreg
from gz.bits import Pa, Va, sizeof, storage, u64
from gz.core.context import Context
from gz.core.cpu import CPUS, Cpu
from gz.core.platform import machine
from gz.core.tree import Tree
from gz.metal import address, byte_swap, cold, export, log, noinline, store_release, view

loaded = storage(Tree)

#: What the core keeps of RAM, its image included: one part of POOL_SHARE, and this.
_KEPT_SHARE = 1000
_KEPT_AT_LEAST = 512 << 10
#: Of that at least this much for tables and VMs.
_FRAMES_AT_LEAST = 256 << 10
_POOL_ALIGNMENT = 64 << 10


@export
def start(tree_at: Pa, index: u64) -> Context:
    """A CPU arrives with its MMU on: the first one with the tree, the others without."""
    sysreg.VBAR_EL2 = u64(image.vectors_start())
    isb()
    cpu = CPUS[index]
    cpu.host.cpu = cpu
    sysreg.TPIDR_EL2 = u64(address(cpu.host))
    if tree_at != Pa(0):
        _boot(cpu, tree_at)
    else:
        coherency.join()
    cpu.kick_ready = 0
    gic.prepare_cpu(cpu)
    host.prepare_cpu(cpu)
    store_release(cpu.power, AffinityState.ON)
    return host.enter(cpu, Pa(cpu.entry), cpu.entry_context)


@export
@cold
def without_el2(tree_at: Pa) -> NoReturn:
    """Entered at EL1, MMU off: say so and go."""
    if tree.open(loaded, Va(u64(tree_at)), SIZE_MAX):
        discovery.discover(loaded)
        if machine.uart.size != 0:
            console.open(Va(u64(machine.uart.base)))
    log("gz: the core was entered at EL1: this machine offers no EL2 (QEMU: -machine virtualization=on)")
    power.off()


@noinline
def _boot(cpu: Cpu, tree_at: Pa) -> None:
    mmu.enabled()
    machine.tree = tree_at
    machine.image.base = mmu.load_address()
    machine.image.size = image.image_end() - image.image_start()
    firmware.discover()
    coherency.begin()
    _tree()
    placement.take(machine.image.base, machine.image.size)
    placement.take(tree_at, loaded.size)
    placement.take(machine.initrd.base, machine.initrd.size)
    _ram()
    resident.take_modules()
    cpu.entry = u64(_kernel())
    resident.reserve()
    _pool()
    firmware.prepare(loaded)
    resident.keep()
    gic.discover()
    machine.doorbell = hole.find(loaded, stage2.limit())
    if machine.doorbell == Pa(0):
        log("gz: no free address for the doorbell page")
        power.off()
    cpu.entry_context = u64(_host_tree())
    host.create_stage2()
    resident.create()
    dying.arm()


def _tree() -> None:
    """Find out about the machine, and the UART to talk about it."""
    at = memory.va(machine.tree)
    size: u64 = byte_swap(view(FdtHeader, at).totalsize)
    if size <= SIZE_MAX:
        first = u64(machine.tree) & ~u64(PAGE_MASK)
        mmu.map_ram(Pa(first), (u64(machine.tree) + size - first + PAGE_MASK) & ~u64(PAGE_MASK))
    if not tree.open(loaded, at, SIZE_MAX):
        power.off()
    discovery.discover(loaded)
    uart = machine.uart
    if uart.size != 0:
        console.open(mmu.map_device(uart.base, uart.size))
    console.share()
    if machine.psci_smc == 0:
        log("gz: the device tree has no PSCI firmware behind SMC")
        power.off()
    _boot_cpu_first()


def _boot_cpu_first() -> None:
    """The CPU that runs here uses stack 0 and so is number 0."""
    mine = sysreg.MPIDR_EL1 & MPIDR_AFFINITY
    for i in range(machine.cpu_count):
        if CPUS[i].mpidr == mine:
            CPUS[i].mpidr = CPUS[0].mpidr
            CPUS[0].mpidr = mine
            for k in range(machine.cpu_count):
                CPUS[k].power = AffinityState.OFF
            return
    log("gz: the device tree does not list the CPU that booted, or lists it too late")
    power.off()


def _ram() -> None:
    """RAM into the core's window; what the loader's reservation block lists is taken."""
    if machine.ram_count == 0:
        log("gz: the device tree has no memory")
        power.off()
    for i in range(machine.ram_count):
        bank = machine.ram[i]
        if u64(bank.base) + bank.size > stage2.limit():
            log("gz: RAM lies above what stage 2 can address")
            power.off()
        mmu.map_ram(bank.base, bank.size)
    index: u64 = 0
    while True:
        base, size = tree.reservation(loaded, index)
        if size == 0:
            return
        placement.take(Pa(base), size)
        index += 1


def _kernel() -> Pa:
    """The host kernel where it can run: its entry (Linux, Documentation/arch/arm64/booting.rst)."""
    module = machine.kernel
    if module.size < sizeof(ImageHeader) or not memory.in_ram(module.base, module.size):
        log("gz: no host kernel: /chosen has no module \"multiboot,kernel\" in RAM")
        power.off()
    header = view(ImageHeader, memory.va(module.base))
    if u64(module.base) & 7 != 0 or header.magic != MAGIC:
        log("gz: the host kernel is not an arm64 Image, or compressed")
        power.off()
    if ImageFlags(header.flags).BIG_ENDIAN != 0 or header.image_size == 0:
        log("gz: the host kernel is big-endian or older than Linux 3.17")
        power.off()
    offset = header.text_offset
    size = max(header.image_size, module.size)
    target = module.base
    if (u64(target) - offset) & (LOAD_ALIGNMENT - 1) != 0 or not placement.is_free(target, size):
        placement.take(module.base, module.size)
        room = Pa(0)
        if max(offset, size) < stage2.limit():
            room = placement.find(offset + size, LOAD_ALIGNMENT)
        if room == Pa(0):
            log("gz: no room in RAM for the host kernel")
            power.off()
        target = room + offset
        memory.copy(memory.va(target), memory.va(module.base), module.size)
    placement.take(target, size)
    memory.clean(target, module.size)
    return target


def _pool() -> None:
    """The core's frames, behind the image if they fit there; the ownership table comes out of them."""
    ram: u64 = 0
    entries: u64 = 0
    for i in range(machine.ram_count):
        ram += machine.ram[i].size
        entries += pages.table_size(machine.ram[i].size >> PAGE_SHIFT)
    own = machine.image
    base = own.base + own.size
    least = (u64(base) + entries + _FRAMES_AT_LEAST + _POOL_ALIGNMENT - 1) & ~u64(_POOL_ALIGNMENT - 1)
    most = (u64(own.base) + ram // _KEPT_SHARE + _KEPT_AT_LEAST) & ~u64(_POOL_ALIGNMENT - 1)
    end = max(least, most)
    size = end - u64(base)
    if not placement.is_free(base, size):
        base = placement.find(size, BLOCK_SIZE)
        if base == Pa(0):
            log("gz: no room in RAM for the core's frames")
            power.off()
    placement.take(base, size)
    machine.pool.base = base
    machine.pool.size = size
    memory.zero(base, entries)
    frames.add(base + entries, (size - entries) // PAGE_SIZE)
    at = base
    for i in range(machine.ram_count):
        bank = machine.ram[i]
        count = bank.size >> PAGE_SHIFT
        pages.add(bank.base, count, memory.va(at))
        at = at + pages.table_size(count)
    assert pages.keep(own.base, own.size >> PAGE_SHIFT), "the image does not lie in RAM"
    assert pages.keep(base, size >> PAGE_SHIFT), "the frames do not lie in RAM"
    log(
        f"gz: core at {own.base:#x}, {(own.size + size) >> 10:d} KiB of {ram >> 20:d} MiB; "
        f"{machine.cpu_count:d} CPUs"
    )


def _host_tree() -> Pa:
    """The host's tree; where it lies."""
    room = host_tree.room(loaded)
    to = placement.find(room, BLOCK_SIZE)
    if to == Pa(0) or room > SIZE_MAX:
        log("gz: no room for the host's device tree")
        power.off()
    size = host_tree.write(loaded, memory.va(to))
    if size == 0:
        log("gz: the device tree is broken")
        power.off()
    memory.clean(to, size)
    return to
