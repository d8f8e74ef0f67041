# SPDX-License-Identifier: Apache-2.0
"""The calls of the kernel's driver, generation by generation, in its order and with its reactions to exits; the VMM
above it is part of the play. The guest is payloads.driven, in this same image.

Each line says how often the driver saw which exit, then what else it was told.
"""

from __future__ import annotations

from gz.abi.calls import DRIVER_VERSION, SMC32_BASE, SMC64_BASE, Call, VcpuTuple
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE, DeviceRequest, DeviceType
from gz.abi.errors import Error
from gz.abi.exits import ExceptionCode, ExitReason, SystemEvent
from gz.abi.guest import VendorCall
from gz.abi.memory import (
    BLOCK_PAGES,
    BLOCK_SIZE,
    CONSTITUENTS_MAX,
    REGION_BUFFER_SIZE,
    Constituent,
    MemoryRegion,
    Purpose,
)
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE, X0
from gz.abi.run import PAGE_SIZE, HwState, RunPage
from gz.arm64.insn import hvc, isb
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Array, Struct, Va, array, storage, u8, u32, u64
from gz.metal import address, export, log, panic, peek64, poke64, unroll, view
from gz.vmm.maps import VIRT
from payloads import driven, exceptions, initrd, interrupts, start  # noqa: F401 - parts of every payload
from payloads.console import put

#: RAM that nothing else uses, with 512 MiB in the machine.
MEMORY = 0x5800_0000
BLOCKS = 4
_SIZE = BLOCKS * BLOCK_SIZE
_SPARE = MEMORY + _SIZE  # the page for the hole that the guest makes
_HOLE = driven.HOLE - VIRT.ram
_VCPUS = 2
_TICK = 8000  # of a second: the host has other things to do
_SIGNAL = 5  # every so many exits to the VMM a signal comes between
_DELAY_MAX = 1  # seconds that a guest here sleeps
_INVALID = 0 - Error.INVALID_ARGS
_BUSY = (1 << 64) + Error.BUSY

BLOCK_MODE, PAGE_MODE, POPULATED_MODE = range(3)
#: Name, ids, version in PROBE, asks 0x9202, how memory comes, 0x9203, pages per MAP_GUEST_BLOCK and per DESTROY_VM
#: (0: all at once), the number by which its VMM means SPI 5.
GENERATIONS = (
    ("G2 blocks", SMC32_BASE, 0, False, BLOCK_MODE, False, 512, 0, driven.SPI),
    ("G2 pages", SMC32_BASE, 0, False, PAGE_MODE, False, 0, 0, driven.SPI),
    ("G3 blocks", SMC64_BASE, 0, False, BLOCK_MODE, False, 512, 0, driven.SPI),
    ("G3 populated", SMC64_BASE, 0, True, POPULATED_MODE, False, 0, 0, driven.SPI),
    ("G4 batches", SMC64_BASE, DRIVER_VERSION[0], True, BLOCK_MODE, True, 128, 128, 32 + driven.SPI),
)


class Vcpu(Struct, align=PAGE_SIZE):
    """The two pages that CREATE_VCPU names."""

    run: Array[u8] = array(PAGE_SIZE)
    hwstate: Array[u8] = array(PAGE_SIZE)


class Pages(Struct, align=PAGE_SIZE):
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    device: Array[u8] = array(PAGE_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)


class Driver(Struct):
    """What differs between generations, and what one VM is at."""

    base: u64
    mode: u32
    idle: u32
    map_batch: u64
    destroy_batch: u64
    spi: u64
    vm: u64
    raise_spi: u32  # the guest wants it when it waits
    hole: u32  # it gave its page back
    life: u32
    wide: u64  # the desk's register
    to_vmm: u32


class Seen(Struct):
    mmio: u32
    bell: u32
    irq: u32
    exception: u32
    hypercall: u32
    events: u32
    gz: u32
    idle: u32
    ipi: u32
    slept: u32
    repeated: u32


VCPUS = storage(Vcpu, _VCPUS)
pages = storage(Pages)
driver = storage(Driver)
seen = storage(Seen)


def attempt(index: u64, a: u64, b: u64, c: u64, d: u64, e: u64) -> tuple[u64, u64, u64]:
    status, first, second, _ = hvc(driver.base + index, a, b, c, d, e)
    return status, first, second


def call(index: u64, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64:
    """A call that has to succeed; gives x1."""
    status, value, _ = attempt(index, a, b, c, d, e)
    if status != 0:
        panic(f"call {index} answered {0 - status}")
    return value


def tuple_of(index: u32) -> u64:
    return VcpuTuple(VMID=u32(driver.vm), VCPU=index)


def run_page(index: u32) -> RunPage:
    return view(RunPage, address(VCPUS[index].run))


# The driver.


def probe(major: u32) -> None:
    got = call(Call.PROBE, major, 0, 0, 0, 0)
    if major != 0:
        if got != major:
            panic("another version")
        blocks = call(Call.ENABLE_CAP, 0, Capability.QUERY_BLOCK_BATCH, 0, 0, 0)
        ends = call(Call.ENABLE_CAP, 0, Capability.QUERY_DESTROY_BATCH, 0, 0, 0)
        if blocks == 0 or BLOCK_PAGES % blocks != 0 or ends == 0 or ends & (ends - 1) != 0:
            panic("probe fails")


def create_vm(paging: bool) -> None:
    driver.vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    if paging and driver.mode != POPULATED_MODE:
        call(Call.ENABLE_CAP, driver.vm, Capability.DEMAND_PAGING, 0, 0, 0)
    if driver.mode == BLOCK_MODE:
        mailbox = u64(address(pages.mailbox))
        call(Call.ENABLE_CAP, driver.vm, Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, mailbox, 0)
    if driver.idle != 0:
        call(Call.ENABLE_CAP, driver.vm, Capability.IDLE, 0, 0, 0)


def add_memory() -> None:
    """PURPOSE, declare, and in one mode all pages, as many runs a call as fit."""
    region = view(MemoryRegion, address(pages.region))
    call(Call.MEMREGION_PURPOSE, driver.vm, VIRT.ram, _SIZE, Purpose.GUEST_MEMORY, 0)
    region.slot = 0
    region.total_pages = _SIZE // PAGE_SIZE
    region.gpa = VIRT.ram
    call(Call.SET_MEMREGION, driver.vm, REGION_BUFFER_SIZE, u64(address(pages.region)), 0, 0)
    if driver.mode != POPULATED_MODE:
        return
    runs = view(Array[Constituent], address(pages.region) + MemoryRegion.size, CONSTITUENTS_MAX)
    done: u64 = 0
    while done < _SIZE // PAGE_SIZE:
        count = min(CONSTITUENTS_MAX, _SIZE // PAGE_SIZE - done)
        for i in range(count):
            runs[i].address = MEMORY + (done + i) * PAGE_SIZE
            runs[i].page_count = 1
        region.constituent_count = u32(count)
        region.total_pages = count
        region.gpa = VIRT.ram + done * PAGE_SIZE
        call(Call.SET_MEMREGION, driver.vm, REGION_BUFFER_SIZE, u64(address(pages.region)), 0, 0)
        done += count


def add_device(kind: u32, base: u64, size: u64) -> None:
    request = view(DeviceRequest, address(pages.device))
    request.type = kind
    request.base = base
    request.window_size = size
    call(Call.CREATE_DEVICE, driver.vm, u64(address(pages.device)), 0, 0, 0)


def frame(page: u64) -> u64:
    """The host's frame for a page of the guest, counted from the start of its memory."""
    if driver.hole != 0 and page == _HOLE // PAGE_SIZE:
        return _SPARE // PAGE_SIZE
    return MEMORY // PAGE_SIZE + page


def supply(gpa: u64) -> None:
    """A page fault: the page, or the block around it, in batches."""
    page = (gpa - VIRT.ram) // PAGE_SIZE
    if driver.mode == PAGE_MODE:
        call(Call.MAP_GUEST, driver.vm, 0, frame(page), gpa // PAGE_SIZE, 1)
        return
    first = page & ~(BLOCK_PAGES - 1)
    done: u64 = 0
    while done < BLOCK_PAGES:
        for i in range(driver.map_batch):
            pages.mailbox[i] = frame(first + done + i)
        gfn = VIRT.ram // PAGE_SIZE + first + done
        call(Call.MAP_GUEST_BLOCK, driver.vm, 0, gfn, driver.map_batch, 0)
        done += driver.map_batch


def tick() -> None:
    """The host's scheduler will want its CPU back."""
    sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0 + sysreg.CNTFRQ_EL0 // _TICK
    sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
    isb()


def enter(index: u32) -> u64:
    tick()
    _, reason, _ = attempt(Call.RUN, tuple_of(index), 0, 0, 0, 0)
    if reason != run_page(index).exit_reason:
        panic(f"RUN says {reason:#x}, its page {run_page(index).exit_reason:#x}")
    return reason


def sleep(index: u32) -> None:
    """IDLE: until the timer that the core names, or not at all if something else will wake it."""
    state = view(HwState, address(VCPUS[index].hwstate))
    if state.vtimer_migrate == 0 or state.vtimer_delay >= _DELAY_MAX * sysreg.CNTFRQ_EL0:
        return
    until = sysreg.CNTVCT_EL0 + state.vtimer_delay
    while sysreg.CNTVCT_EL0 < until:
        isb()
    seen.slept += 1


def hypercall(index: u32) -> None:
    page = run_page(index)
    if page.hypercall.args[0] == VendorCall.MEM_RELINQUISH:
        if page.hypercall.args[1] != driven.HOLE or peek64(Va(MEMORY + _HOLE)) != 0:
            panic("a page came back with its contents")
        driver.hole = 1
        poke64(Va(_SPARE), driven.FRESH)
        return
    counter = sysreg.CNTVCT_EL0 - view(HwState, address(VCPUS[index].hwstate)).vtimer_offset
    page.hypercall.args[0] = 0x1234
    page.hypercall.args[1] = 0x5678
    page.hypercall.args[2] = counter >> 32
    page.hypercall.args[3] = counter & 0xFFFF_FFFF


def signalled(index: u32, reason: u64) -> bool:
    """A signal came between the exit and the VMM, which tries again."""
    driver.to_vmm += 1
    if driver.to_vmm % _SIGNAL != 0 and reason != ExitReason.SYSTEM_EVENT:
        return False
    gpa = run_page(index).mmio.phys_addr
    call(Call.INFORM_EXIT, driver.vm, 0, 0, 0, 0)
    if enter(index) != reason or run_page(index).mmio.phys_addr != gpa:
        panic(f"the exit {reason:#x} was lost")
    seen.repeated += 1
    return True


def run(index: u32) -> bool:
    """One RUN of the loop; False once the VMM ends it."""
    reason = enter(index)
    page = run_page(index)
    if reason == ExitReason.MMIO:
        if page.mmio.is_write != 0 and page.mmio.phys_addr == driven.BELL:
            seen.bell += 1
            return True
        seen.mmio += 1
        signalled(index, reason)
        serve(page)
    elif reason == ExitReason.EXCEPTION:
        if page.exception.exception != ExceptionCode.PAGE_FAULT or driver.mode == POPULATED_MODE:
            panic("an exception for the VMM")
        seen.exception += 1
        supply(page.exception.fault_gpa)
    elif reason == ExitReason.HYPERCALL:
        seen.hypercall += 1
        hypercall(index)
    elif reason == ExitReason.IRQ:
        seen.irq += 1
    elif reason == ExitReason.GZ:
        seen.gz += 1
    elif reason == ExitReason.IDLE and driver.idle != 0:
        seen.idle += 1
        sleep(index)
    elif reason == ExitReason.IPI and driver.idle != 0:
        seen.ipi += 1
    elif reason == ExitReason.SYSTEM_EVENT:
        seen.events += 1
        signalled(index, reason)
        return event(page.system_event.type)
    else:
        panic(f"RUN came back with {reason:#x}")
    return True


# The VMM.


def serve(page: RunPage) -> None:
    at = page.mmio.phys_addr
    if page.mmio.is_write != 0:
        if at == VIRT.uart:
            put(u8(page.mmio.data))
        elif at == driven.DESK + 4:
            driver.raise_spi = 1
        elif at == driven.DESK + 16:
            driver.wide = page.mmio.data
        return
    page.mmio.data = 0
    if at == driven.DESK:
        page.mmio.data = driven.MAGIC
    elif at == driven.DESK + 8:
        page.mmio.data = facts()
    elif at == driven.DESK + 16:
        page.mmio.data = driver.wide


def facts() -> u64:
    """What the guest's desk says about this driver."""
    value: u64 = 0
    if driver.base == SMC64_BASE:
        value |= driven.ANSWERS_PTP
    if driver.mode != POPULATED_MODE:
        value |= driven.PAGES_ON_DEMAND
    if driver.life != 0:
        value |= driven.SECOND_LIFE
    return value


def event(type: u32) -> bool:
    """A reset writes registers anew and no more, as there is no call for it."""
    if type == SystemEvent.RESET and driver.life == 0:
        driver.life = 1
        start_registers()
        return True
    if type != SystemEvent.SHUTDOWN or driver.life != 1:
        panic(f"event {type}")
    return False


def start_registers() -> None:
    for index in range(_VCPUS):
        call(Call.SET_ONE_REG, tuple_of(u32(index)), PSTATE, BOOT_PSTATE, 0, 0)
    call(Call.SET_ONE_REG, tuple_of(0), PC, VIRT.ram, 0, 0)
    call(Call.SET_ONE_REG, tuple_of(0), X0, 0, 0, 0)


def raise_line() -> None:
    """The eventfd of an irqfd: level 1 on vCPU 0, and never level 0."""
    driver.raise_spi = 0
    call(Call.IRQ_LINE, tuple_of(0), driver.spi, 1, 0, 0)


def play(image: u64, size: u64) -> None:
    """A VM from its creation to its end."""
    for offset in range(0, _SIZE + PAGE_SIZE, 8):
        poke64(Va(MEMORY + offset), peek64(Va(image + offset)) if offset < size else 0)
    add_memory()
    status, _, _ = attempt(Call.ENABLE_CAP, driver.vm, Capability.PROTECTED_VM, ProtectedVm.GET_FIRMWARE_SIZE, 0, 0)
    if status != 0:
        panic("no answer about firmware")
    add_device(DeviceType.VGICV3_DISTRIBUTOR, VIRT.gicd, DISTRIBUTOR_SIZE)
    add_device(DeviceType.VGICV3_REDISTRIBUTOR, VIRT.redistributors, REDISTRIBUTOR_SIZE)
    for index in range(_VCPUS):
        vcpu = VCPUS[index]
        for offset in range(0, Vcpu.size, 8):
            poke64(address(vcpu) + offset, 0)
        call(Call.CREATE_VCPU, tuple_of(u32(index)), u64(address(vcpu)), 0, 0, 0)
    call(Call.SET_DTB_CONFIG, driver.vm, VIRT.ram, BLOCK_SIZE, 0, 0)
    start_registers()
    going = run(1)  # threads of all vCPUs run from the start
    while going:
        before = seen.idle + seen.irq
        going = run(0)
        if going and driver.raise_spi != 0 and seen.idle + seen.irq != before:
            raise_line()
        if going:
            run(1)


def end() -> u64:
    """The VM's file is closed; gives how many calls it took."""
    for index in range(_VCPUS):
        call(Call.DESTROY_VCPU, tuple_of(u32(index)), 0, 0, 0, 0)
    rounds: u64 = 1
    while True:
        status, _, _ = attempt(Call.DESTROY_VM, driver.vm, driver.destroy_batch, 0, 0, 0)
        if status == 0:
            return rounds
        if driver.destroy_batch == 0 or status != _BUSY:
            panic(f"DESTROY_VM answered {0 - status}")
        rounds += 1


def report(shared: u64, rounds: u64) -> None:
    log(
        f"{seen.mmio} mmio, {seen.bell} bell, {seen.irq} irq, {seen.exception} exception, "
        f"{seen.hypercall} hypercall, {seen.events} events, {seen.gz} gz, {seen.idle} idle, {seen.ipi} ipi, "
        f"{seen.slept} slept, {seen.repeated} repeated, {shared} shared, {rounds} ends"
    )
    for offset in range(0, Seen.size, 4):
        view(Array[u32], address(seen), Seen.size // 4)[offset // 4] = 0


@export
def payload(tree: Va) -> None:
    """Without a device tree it is the guest."""
    if tree == 0:
        driven.run()
        return
    interrupts.enable()
    image, size = initrd.find(tree)
    for name, base, major, paging, mode, idle, map_batch, destroy_batch, spi in unroll(GENERATIONS):
        log(f"{name}")
        driver.base = base
        driver.mode = mode
        driver.idle = 1 if idle else 0
        driver.map_batch = map_batch
        driver.destroy_batch = destroy_batch
        driver.spi = spi
        driver.hole = 0
        driver.life = 0
        driver.to_vmm = 0
        probe(major)
        create_vm(paging)
        play(image, size)
        status, _, shared = attempt(Call.GET_STATISTICS, driver.vm, 0, 0, 0, 0)
        if status != 0:
            panic("no statistics")
        report(shared // PAGE_SIZE, end())
