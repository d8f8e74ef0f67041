# SPDX-License-Identifier: Apache-2.0
"""Guests that the loader brought as boot modules: no host makes them, no VMM serves them, the host can't reach them.

Each has one vCPU and the "virt" machine's RAM, GIC, timer and PL011, whose output goes to the core's console line by
line. They run in the host's time: on a CPU where the host waits for an interrupt, until one comes; and where it
never waits, for a SLICE after an interrupt that the host has ended, once in a PERIOD. For both, the host's WFI and its
GIC interface trap; a machine without such guests pays nothing.
"""

from __future__ import annotations

import gz.core.console as console
import gz.core.exits as exits
import gz.core.frames as frames
import gz.core.kick as kick
import gz.core.lifecycle as lifecycle
import gz.core.memory as memory
import gz.core.pages as pages
import gz.core.placement as placement
import gz.core.resident_tree as resident_tree
import gz.core.slots as slots
import gz.core.stage2 as stage2
import gz.core.timer as timer
import gz.core.vgic as vgic
import gz.core.vgic_reset as vgic_reset
import gz.core.vm as vms
import gz.core.world as world
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.abi.run import RunPage
from gz.arm64.descriptors import BLOCK_SIZE, PAGE_SHIFT
from gz.arm64.image import MAGIC, ImageHeader
from gz.arm64.insn import dsb, ic, isb, wfi
from gz.arm64.pl011 import FR, PERIPHERAL_ID, PRIMECELL_ID, Interrupt
from gz.arm64.smccc import NOT_SUPPORTED
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Array, Ipa, Pa, Ptr, Struct, Va, array, sizeof, storage, table, u8, u32, u64
from gz.core.context import Context
from gz.core.cpu import Cpu
from gz.core.platform import GUESTS_MAX, BootGuest, machine
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
_LINE_MAX = 160
_NEWLINE = 0x0A
_RETURN = 0x0D
_WORD = 4

_FR = int(FR(RXFE=1, TXFE=1, CTS=1, DSR=1, DCD=1))
_TX = int(Interrupt(TX=1))
_DR_OFFSET, _FR_OFFSET, _IMSC_OFFSET, _RIS_OFFSET, _MIS_OFFSET = 0x000, 0x018, 0x038, 0x03C, 0x040
_ID_OFFSET = 0xFE0
_IDS = table(u8, [*PERIPHERAL_ID, *PRIMECELL_ID])
_SEPARATOR = text(": ")
_END = text("\n")
_NO_ROOM = text("not started: no room in RAM for it")
_UNFIT = text("not started: it does not fit into its RAM, or is no arm64 Image")
_OFF = text("off")


class Resident(Struct):
    vcpu: Ptr[Vcpu] | None  # None: it could not be made
    mask: u32  # UARTIMSC
    length: u32
    line: Array[u8] = array(_LINE_MAX)


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
            _report(machine.guests[i], address(_NO_ROOM), len(_NO_ROOM))
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
        if guest.memory.size != 0 and not _create(guest, RESIDENTS[i]):
            _report(guest, address(_UNFIT), len(_UNFIT))


def _report(guest: BootGuest, line: Va, length: u64) -> None:
    """A line of its own, or one about it."""
    console.write(guest.name, guest.name_size)
    console.write(address(_SEPARATOR), len(_SEPARATOR))
    console.write(line, length)
    console.write(address(_END), len(_END))


def _create(guest: BootGuest, resident: Resident) -> bool:
    ram = guest.memory
    memory.zero(ram.base, ram.size)
    entry, tree, loaded = _load(guest)
    if not loaded:
        return False
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
    if vgic_reset.create_distributor(vm, Ipa(VIRT.gicd), DISTRIBUTOR_SIZE) != Error.NO_ERROR:
        return False
    if vgic_reset.create_redistributor(vm, Ipa(VIRT.redistributors), REDISTRIBUTOR_SIZE) != Error.NO_ERROR:
        return False
    run_page = frames.allocate_run(_RUN_FRAMES)
    if run_page == Pa(0):
        return False
    locked = slots.acquire_for_host(vm)
    status = lifecycle.create(locked, 0, run_page)
    slots.release(locked)
    if status != Error.NO_ERROR:
        return False
    vcpu = vm.vcpus[0]
    if vcpu is None:
        return False
    vcpu.context.x[0] = tree
    vcpu.context.elr = entry
    resident.vcpu = vcpu
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
    entered = _give(cpu)
    if entered is not None:
        return entered
    _sleep()
    return host


@cold
def interrupt_ended(host: Context) -> Context:
    """The host has ended an interrupt."""
    cpu = host.cpu
    if sysreg.CNTPCT_EL0 - cpu.given < sysreg.CNTFRQ_EL0 * SLICES_A_PERIOD // SLICES_A_SECOND:
        return host
    entered = _give(cpu)
    return host if entered is None else entered


def _give(cpu: Cpu) -> Context | None:
    """A slice for the next guest that can run; not while the host's priority mask would hold its end up."""
    if sysreg.ICC_PMR_EL1 < kick.LATE_PRIORITY:
        return None
    for i in range(machine.guest_count):
        turn = (cpu.turn + 1 + i) % machine.guest_count
        vcpu = RESIDENTS[turn].vcpu
        if vcpu is not None and compare_exchange(vcpu.running, 0, cpu.index + 1) == 0:
            if _can_run(vcpu):
                cpu.turn = u32(turn)
                now = sysreg.CNTPCT_EL0
                cpu.given = now
                cpu.slice_end = now + sysreg.CNTFRQ_EL0 // SLICES_A_SECOND
                cpu.by_doorbell = 0
                vcpu.idle = 0
                return _enter(cpu, vcpu)
            store_release(vcpu.running, 0)
    return None


def _can_run(vcpu: Vcpu) -> bool:
    return load_acquire(vcpu.power) == Power.ON and (vcpu.idle == 0 or not vgic.sleeps(vcpu))


@noinline
def _enter(cpu: Cpu, vcpu: Vcpu) -> Context:
    if vcpu.access.active != 0:
        exits.finish(vcpu)
    world.enter(cpu, vcpu)
    if vcpu.gic.dirty != 0:
        vgic.flush(vcpu)
    return vcpu.context


def _sleep() -> None:
    """Until an interrupt of the host's or the next deadline of a guest's, which is no interrupt of the host's."""
    soonest: u64 = timer.NEVER
    for i in range(machine.guest_count):
        vcpu = RESIDENTS[i].vcpu
        if vcpu is not None and load_acquire(vcpu.running) == 0:
            soonest = min(soonest, timer.deadline(vcpu))
    if soonest != timer.NEVER:
        sysreg.CNTHP_CVAL_EL2 = sysreg.CNTPCT_EL0 + soonest
        sysreg.CNTHP_CTL_EL2 = CNT_CTL(ENABLE=1)
        isb()
    dsb("sy")
    wfi()
    sysreg.CNTHP_CTL_EL2 = 0
    isb()


@cold
def left(vcpu: Vcpu) -> Context:
    """An exit that a VMM or driver would get; what ends here is answered and the guest goes on."""
    cpu = vcpu.context.cpu
    world.leave(cpu, vcpu)
    resident = RESIDENTS[vcpu.vm.resident - 1]
    if vcpu.exit == ExitReason.MMIO:
        _serve(resident, vcpu)
        return _enter(cpu, vcpu)
    if vcpu.exit == ExitReason.HYPERCALL:
        _refuse(vcpu)
        return _enter(cpu, vcpu)
    if vcpu.exit == ExitReason.SYSTEM_EVENT:
        _report(machine.guests[vcpu.vm.resident - 1], address(_OFF), len(_OFF))
    cpu.slice_end = 0
    store_release(vcpu.running, 0)
    return cpu.host


def _refuse(vcpu: Vcpu) -> None:
    """A call that is for a VMM."""
    record = view(RunPage, memory.va(vcpu.run_page)).hypercall
    write_once(record.args[0], NOT_SUPPORTED)


# The PL011 (DDI 0183), as far as sending goes: it has always sent. Nothing else has a device: reads are 0.


def _serve(resident: Resident, vcpu: Vcpu) -> None:
    access = view(RunPage, memory.va(vcpu.run_page)).mmio
    at = read_once(access.phys_addr)
    if at < VIRT.uart or at >= VIRT.uart + VIRT.uart_size:
        return
    offset = at - VIRT.uart
    if read_once(access.is_write) != 0:
        _write(resident, vcpu.vm, offset, u32(read_once(access.data)))
    else:
        write_once(access.data, _read(resident, offset))


def _write(resident: Resident, vm: Vm, offset: u64, value: u32) -> None:
    if offset == _DR_OFFSET:
        _put(resident, machine.guests[vm.resident - 1], u8(value & 0xFF))
    elif offset == _IMSC_OFFSET:
        resident.mask = value
        vgic.irq_line(vm, 0, VIRT.uart_spi, 1 if value & _TX != 0 else 0)


def _read(resident: Resident, offset: u64) -> u64:
    if offset == _FR_OFFSET:
        return _FR
    if offset == _IMSC_OFFSET:
        return resident.mask
    if offset == _RIS_OFFSET:
        return _TX
    if offset == _MIS_OFFSET:
        return resident.mask & _TX
    if offset >= _ID_OFFSET and offset < _ID_OFFSET + _WORD * len(_IDS):
        return _IDS[(offset - _ID_OFFSET) // _WORD]
    return 0


def _put(resident: Resident, guest: BootGuest, byte: u8) -> None:
    """Whole lines, with the guest's name before them."""
    if byte == _RETURN:
        return
    if byte != _NEWLINE:
        resident.line[resident.length] = byte
        resident.length += 1
    if byte == _NEWLINE or resident.length == _LINE_MAX:
        _report(guest, address(resident.line), resident.length)
        resident.length = 0
