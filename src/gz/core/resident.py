# SPDX-License-Identifier: Apache-2.0
"""Guests that the loader brought as boot modules: no host makes them, no VMM serves them, the host can't reach them.

Each has vCPUs and the "virt" machine's RAM, GIC, timer and PL011 (core/resident_uart.py). The vCPUs run in the host's
time, on whatever CPU has some: where the host waits for an interrupt, until one comes; and where it never waits, for a
SLICE after an interrupt that the host has ended, once in a PERIOD. For both the host's WFI and its GIC interface trap;
a machine without such guests pays nothing.
"""

from __future__ import annotations

import gz.core.exits as exits
import gz.core.frames as frames
import gz.core.kick as kick
import gz.core.lifecycle as lifecycle
import gz.core.memory as memory
import gz.core.pages as pages
import gz.core.placement as placement
import gz.core.resident_tree as resident_tree
import gz.core.resident_uart as resident_uart
import gz.core.slots as slots
import gz.core.stage2 as stage2
import gz.core.timer as timer
import gz.core.vgic as vgic
import gz.core.vgic_reset as vgic_reset
import gz.core.vm as vms
import gz.core.world as world
from gz.abi.calls import VCPUS_MAX
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE
from gz.abi.errors import Error
from gz.abi.exits import ExitReason, SystemEvent
from gz.abi.run import RunPage
from gz.arm64.descriptors import BLOCK_SIZE, PAGE_SHIFT
from gz.arm64.image import MAGIC, ImageHeader
from gz.arm64.insn import dmb, dsb, ic, isb, wfi
from gz.arm64.smccc import NOT_SUPPORTED
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Held, Ipa, Pa, Ptr, Struct, sizeof, storage, u32, u64
from gz.core.context import Context
from gz.core.cpu import CPUS, Cpu
from gz.core.platform import GUESTS_MAX, BootGuest, machine
from gz.core.resident_uart import Uart
from gz.core.tree import text
from gz.core.vcpu import Power, Vcpu
from gz.core.vm import Vm
from gz.metal import (
    address,
    cold,
    compare_exchange,
    load_acquire,
    noinline,
    read_once,
    store_release,
    view,
    write_once,
)
from gz.vmm.maps import VIRT

SLICES_A_SECOND = 1000
SLICES_A_PERIOD = 4
_RUN_FRAMES = 2
_NO_ROOM = text("not started: no room in RAM for it")
_UNFIT = text("not started: it does not fit into its RAM, or is no arm64 Image")
_CPUS = text("not started: it may have 1 to 8 CPUs")
_NO_FRAMES = text("not started: the core has no memory left for it")
_OFF = text("off")
_RESET = text("off: it asked for a reset, and is not started again")
_CRASHED = text("off: it cannot take its exceptions any more")


class Resident(Struct):
    vm: Ptr[Vm] | None  # None: it could not be made
    over: u32
    uart: Uart


RESIDENTS = storage(Resident, GUESTS_MAX)


# Boot: `take_modules`, `reserve`, `keep`, `create`, in this order.


def take_modules() -> None:
    """Nothing is placed over them until they are copied."""
    for i in range(machine.guest_count):
        guest = machine.guests[i]
        placement.take(guest.kernel.base, guest.kernel.size)
        placement.take(guest.initrd.base, guest.initrd.size)


def reserve() -> None:
    """Room for the guests' RAM; a guest without is left out."""
    for i in range(machine.guest_count):
        ram = machine.guests[i].memory
        ram.size = ram.size & ~u64(BLOCK_SIZE - 1)
        if ram.size != 0:
            ram.base = placement.find(ram.size, BLOCK_SIZE)
        if ram.base == Pa(0):
            ram.size = 0
            resident_uart.report(machine.guests[i], address(_NO_ROOM), len(_NO_ROOM))
        placement.take(ram.base, ram.size)


def keep() -> None:
    """Their RAM is neither the host's nor any other guest's."""
    for i in range(machine.guest_count):
        ram = machine.guests[i].memory
        if ram.size != 0:
            assert pages.keep(ram.base, ram.size >> PAGE_SHIFT), "a resident guest's RAM is not RAM"


def create() -> None:
    for i in range(machine.guest_count):
        guest = machine.guests[i]
        if guest.memory.size == 0:
            continue
        if guest.cpus == 0 or guest.cpus > VCPUS_MAX:
            resident_uart.report(guest, address(_CPUS), len(_CPUS))
            continue
        memory.zero(guest.memory.base, guest.memory.size)
        entry, tree, loaded = _load(guest)
        if not loaded:
            resident_uart.report(guest, address(_UNFIT), len(_UNFIT))
        elif not _create(guest, RESIDENTS[i], entry, tree):
            resident_uart.report(guest, address(_NO_FRAMES), len(_NO_FRAMES))


def _create(guest: BootGuest, resident: Resident, entry: u64, tree: u64) -> bool:
    ram = guest.memory
    memory.clean(ram.base, ram.size)
    ic("ialluis")
    dsb("ish")
    isb()
    status, vmid = vms.create(True)
    vm = vms.find(vmid)
    if status != Error.NO_ERROR or vm is None:
        return False
    vm.used = vms.RESIDENT
    vm.resident = guest.index + 1
    vm.capabilities = vms.IDLE
    if stage2.map(vm.stage2, Ipa(VIRT.ram), ram.base, ram.size, stage2.guest_memory()) != Error.NO_ERROR:
        return False
    locked = slots.acquire_for_host(vm)
    complete = _populate(locked, guest.cpus)
    slots.release(locked)
    if not complete:
        return False
    boot = vm.vcpus[0]
    if boot is None:
        return False
    boot.context.x[0] = tree
    boot.context.elr = entry
    resident.vm = vm
    return True


def _populate(vm: Held[Vm], cpus: u32) -> bool:
    """GIC and vCPUs."""
    if vgic_reset.create_distributor(vm, Ipa(VIRT.gicd), DISTRIBUTOR_SIZE) != Error.NO_ERROR:
        return False
    if vgic_reset.create_redistributor(vm, Ipa(VIRT.redistributors), REDISTRIBUTOR_SIZE) != Error.NO_ERROR:
        return False
    for index in range(cpus):
        run_page = frames.allocate_run(_RUN_FRAMES)
        if run_page == Pa(0) or lifecycle.create(vm, index, run_page) != Error.NO_ERROR:
            return False
    return True


def _load(guest: BootGuest) -> tuple[u64, u64, bool]:
    """Kernel, ramdisk and tree into the guest's RAM: IPAs of entry and tree (Linux, booting.rst)."""
    ram = guest.memory
    kernel = guest.kernel
    if kernel.size < sizeof(ImageHeader) or not memory.in_ram(kernel.base, kernel.size):
        return 0, 0, False
    header = view(ImageHeader, memory.va(kernel.base))
    size = max(header.image_size, kernel.size)
    offset = header.text_offset
    tree_size = (resident_tree.SIZE + guest.arguments_size + BLOCK_SIZE - 1) & ~u64(BLOCK_SIZE - 1)
    if header.magic != MAGIC or offset >= ram.size or size > ram.size - offset:
        return 0, 0, False
    initrd = (offset + size + BLOCK_SIZE - 1) & ~u64(BLOCK_SIZE - 1)
    if initrd > ram.size or guest.initrd.size > ram.size - initrd:
        return 0, 0, False
    if tree_size > ram.size - initrd - guest.initrd.size:
        return 0, 0, False
    memory.copy(memory.va(ram.base + offset), memory.va(kernel.base), kernel.size)
    if guest.initrd.size != 0:
        memory.copy(memory.va(ram.base + initrd), memory.va(guest.initrd.base), guest.initrd.size)
    tree = ram.size - tree_size
    resident_tree.write(guest, ram.base + tree, VIRT.ram + initrd)
    return VIRT.ram + offset, VIRT.ram + tree, True


# Time.


@cold
def wait(host: Context) -> Context:
    """The host's WFI: its time is a guest's, or there is really nothing to do."""
    cpu = host.cpu
    store_release(cpu.dozing, 1)
    dmb("ish")  # who makes something pending from now on sees that
    entered = _give(cpu)
    if entered is None:
        _sleep(cpu)
    store_release(cpu.dozing, 0)
    return host if entered is None else entered


@cold
def interrupt_ended(host: Context) -> Context:
    """The host has ended an interrupt."""
    cpu = host.cpu
    if sysreg.CNTPCT_EL0 - cpu.given < sysreg.CNTFRQ_EL0 * SLICES_A_PERIOD // SLICES_A_SECOND:
        return host
    entered = _give(cpu)
    return host if entered is None else entered


def _vcpu(number: u32) -> Vcpu | None:
    """Of all guests'; None: there is none, or its guest is over."""
    resident = RESIDENTS[number // VCPUS_MAX]
    vm = resident.vm
    if vm is None or load_acquire(resident.over) != 0:
        return None
    return vm.vcpus[number % VCPUS_MAX]


def _give(cpu: Cpu) -> Context | None:
    """A slice for the next vCPU that can run; not while the host's priority mask would hold its end up."""
    if sysreg.ICC_PMR_EL1 < kick.LATE_PRIORITY:
        return None
    count = machine.guest_count * VCPUS_MAX
    for i in range(count):
        turn = (cpu.turn + 1 + i) % count
        vcpu = _vcpu(turn)
        if vcpu is not None and compare_exchange(vcpu.running, 0, cpu.index + 1) == 0:
            if _can_run(vcpu):
                cpu.turn = turn
                now = sysreg.CNTPCT_EL0
                cpu.given = now
                cpu.slice_end = now + sysreg.CNTFRQ_EL0 // SLICES_A_SECOND
                cpu.by_doorbell = 0
                vcpu.idle = 0
                return _enter(cpu, vcpu)
            store_release(vcpu.running, 0)
    return None


def _can_run(vcpu: Vcpu) -> bool:
    if load_acquire(vcpu.power) != Power.ON:
        return lifecycle.power_up(vcpu)
    return vcpu.idle == 0 or not vgic.sleeps(vcpu)


@noinline
def _enter(cpu: Cpu, vcpu: Vcpu) -> Context:
    if vcpu.access.active != 0:
        exits.finish(vcpu)
    world.enter(cpu, vcpu)
    if vcpu.gic.dirty != 0:
        vgic.flush(vcpu)
    return vcpu.context


def _sleep(cpu: Cpu) -> None:
    """Until an interrupt of the host's, a kick, or the next deadline of a guest's, which is none of the host's."""
    soonest: u64 = timer.NEVER
    for i in range(machine.guest_count * VCPUS_MAX):
        vcpu = _vcpu(i)
        if vcpu is not None and load_acquire(vcpu.running) == 0:
            soonest = min(soonest, timer.deadline(vcpu))
    if soonest != timer.NEVER:
        sysreg.CNTHP_CVAL_EL2 = sysreg.CNTPCT_EL0 + soonest
        sysreg.CNTHP_CTL_EL2 = CNT_CTL(ENABLE=1)
    if cpu.kick_ready == 0:
        kick.prepare(cpu)
    sysreg.ICC_IGRPEN0_EL1 = 1  # kicks end the wait
    isb()
    dsb("sy")
    wfi()
    kick.acknowledge()
    sysreg.ICC_IGRPEN0_EL1 = 0
    sysreg.CNTHP_CTL_EL2 = 0
    isb()


def _wake(cpu: Cpu) -> None:
    """Some vCPU has something to do that it had not before: CPUs that doze look again."""
    dmb("ish")
    for i in range(machine.cpu_count):
        other = CPUS[i]
        if other.index != cpu.index and load_acquire(other.dozing) != 0:
            kick.send(other)


@cold
def left(vcpu: Vcpu) -> Context:
    """An exit that a VMM or driver would get; what ends here is answered and the guest goes on."""
    cpu = vcpu.context.cpu
    world.leave(cpu, vcpu)
    resident = RESIDENTS[vcpu.vm.resident - 1]
    guest = machine.guests[vcpu.vm.resident - 1]
    page = view(RunPage, memory.va(vcpu.run_page))
    if vcpu.exit == ExitReason.MMIO:
        if resident_uart.serve(resident.uart, guest, vcpu.vm, page.mmio):
            _wake(cpu)
        return _enter(cpu, vcpu)
    if vcpu.exit == ExitReason.HYPERCALL:  # for a VMM
        write_once(page.hypercall.args[0], NOT_SUPPORTED)
        return _enter(cpu, vcpu)
    if vcpu.exit == ExitReason.IPI:
        _wake(cpu)
        return _enter(cpu, vcpu)
    if vcpu.exit == ExitReason.SYSTEM_EVENT:
        _end(resident, guest, read_once(page.system_event.type))
    cpu.slice_end = 0
    store_release(vcpu.running, 0)
    return cpu.host


def _end(resident: Resident, guest: BootGuest, event: u32) -> None:
    """Said once. Its other vCPUs have what is left of their slices, and no other one."""
    if compare_exchange(resident.over, 0, 1) != 0:
        return
    if event == SystemEvent.RESET:
        resident_uart.report(guest, address(_RESET), len(_RESET))
    elif event == SystemEvent.CRASH:
        resident_uart.report(guest, address(_CRASHED), len(_CRASHED))
    else:
        resident_uart.report(guest, address(_OFF), len(_OFF))
