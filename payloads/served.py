# SPDX-License-Identifier: Apache-2.0
"""The longest that the core is busy for a guest, seen from the guest: instructions from an exit to its end, without
what the host took of it. Each line is a name and a count.

The guest is this program, in a VM that is protected, then in one that is not. Its VMM serves the console and the
registers of a `Desk`.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call, VcpuTuple
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE, DeviceType
from gz.abi.exits import ExitReason
from gz.abi.guest import VendorCall
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE, RunPage
from gz.arm64.gic import GICD_CTLR, INTERRUPTS_MAX, PRIVATE_INTERRUPTS, Gicd
from gz.arm64.insn import hvc, isb
from gz.arm64.psci import Psci
from gz.arm64.smccc import ParavirtTime
from gz.arm64.sysreg import sysreg
from gz.bits import Array, Struct, Va, Window, array, at, storage, u8, u32, u64
from gz.metal import address, export, log, mmio, noinline, panic, peek64, poke64, view
from gz.vmm.maps import VIRT
from payloads import exceptions, initrd, interrupts, start  # noqa: F401 - parts of every payload
from payloads.console import put
from payloads.host_call import call, create_device, declare, page_by_blocks

#: RAM that nothing else uses, with 512 MiB in the machine.
MEMORY = 0x5800_0000
BLOCKS = 3
VCPUS = 8
DESK = VIRT.rtc
BANKS = 32
GUARDED = 300  # more than there are windows
_WORD = 8
_TICK = 16  # instructions


class Desk(Window):
    """Registers of the VMM."""

    SPENT: u32 = at(0)
    """Ticks that the host had the CPU at the exit before."""
    RAISE: u32 = at(4)
    """Every SPI."""
    MOST: u32 = at(8)
    """Ticks of the longest call that the host made for that."""


class Pages(Struct, align=PAGE_SIZE):
    """What the calls share with the core."""

    run: Array[u8] = array(VCPUS * 2 * HWSTATE_OFFSET)
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)
    device: Array[u8] = array(PAGE_SIZE)


class Spent(Struct):
    """By the host."""

    last: u64
    most: u64


pages = storage(Pages)
spent = storage(Spent)


def now() -> u64:
    isb()
    ticks = sysreg.CNTVCT_EL0
    isb()
    return ticks


# The guest.


def longer(most: u64, begin: u64) -> u64:
    return max(most, now() - begin)


def left(most: u64, begin: u64) -> u64:
    """Of something that the host had a part in."""
    ticks = now() - begin
    return max(most, ticks - mmio(Desk, Va(DESK)).SPENT)


@noinline
def ranges(function: u64, base: u64, count: u64) -> u64:
    """Until all pages are done; the longest call."""
    most: u64 = 0
    done: u64 = 0
    while done < count:
        begin = now()
        status, did, _, _ = hvc(function, base + done * PAGE_SIZE, count - done, 0)
        most = longer(most, begin)
        if status != 0:
            panic(f"call {function:#x} answered {0 - status} after {done} pages\n")
        done += did
    return most


@noinline
def guards() -> u64:
    """Windows until there are no more, then each page in a call of its own."""
    most: u64 = 0
    for i in range(GUARDED):
        begin = now()
        hvc(VendorCall.MMIO_GUARD_MAP, VIRT.virtio + (1 << 24) + 2 * i * PAGE_SIZE, 0, 0)
        most = longer(most, begin)
    return most


@noinline
def relinquish(base: u64) -> u64:
    """From the end to the beginning."""
    most: u64 = 0
    for i in range(BLOCK_PAGES):
        begin = now()
        status, _, _, _ = hvc(VendorCall.MEM_RELINQUISH, base + (BLOCK_PAGES - 1 - i) * PAGE_SIZE, 0, 0)
        most = left(most, begin)
        if status != 0:
            panic(f"page {i} stays\n")
    return most


@noinline
def distributor() -> u64:
    """Every register of a bank of 32 interrupts, all ones, while all SPIs are there."""
    gicd = mmio(Gicd, Va(VIRT.gicd))
    most: u64 = 0
    for i in range(1, BANKS):
        begin = now()
        gicd.IGROUPR[i] = 0xFFFF_FFFF
        most = longer(most, begin)
        begin = now()
        gicd.ISENABLER[i] = 0xFFFF_FFFF
        most = longer(most, begin)
        begin = now()
        gicd.ISPENDR[i] = 0xFFFF_FFFF
        most = longer(most, begin)
        begin = now()
        gicd.ISACTIVER[i] = 0xFFFF_FFFF
        most = longer(most, begin)
        begin = now()
        gicd.ICACTIVER[i] = 0xFFFF_FFFF
        most = longer(most, begin)
        begin = now()
        gicd.ICPENDR[i] = 0xFFFF_FFFF
        most = longer(most, begin)
    for value in range(4):
        begin = now()
        gicd.CTLR = u32(3 - value)
        most = longer(most, begin)
    begin = now()
    gicd.CTLR = GICD_CTLR(EnableGrp1NS=1)
    return longer(most, begin)


@noinline
def raised() -> u64:
    begin = now()
    _ = mmio(Desk, Va(DESK)).RAISE
    return left(0, begin)


@noinline
def single(function: u64, a: u64, b: u64) -> u64:
    begin = now()
    hvc(function, a, b, 0)
    return longer(0, begin)


def private() -> None:
    block = VIRT.ram + BLOCK_SIZE
    hvc(VendorCall.MMIO_GUARD_MAP, DESK, 0, 0)
    hvc(VendorCall.MMIO_GUARD_MAP, VIRT.uart, 0, 0)
    for offset in range(0, 2 * BLOCK_SIZE, PAGE_SIZE):
        poke64(Va(block + offset), offset)
    log(f"mem_private {single(VendorCall.MEM_PRIVATE, VIRT.ram, BLOCKS * BLOCK_PAGES) * _TICK}")
    log(f"mem_share {ranges(VendorCall.MEM_SHARE, block, 2 * BLOCK_PAGES) * _TICK}")
    log(f"mem_unshare {ranges(VendorCall.MEM_UNSHARE, block, 2 * BLOCK_PAGES) * _TICK}")
    log(f"guard_map {guards() * _TICK}")
    log(f"guard_range {ranges(VendorCall.MMIO_RGUARD_UNMAP, VIRT.virtio + (1 << 26), BLOCK_PAGES) * _TICK}")
    log(f"private_relinquish {max(relinquish(block), relinquish(block + BLOCK_SIZE)) * _TICK}")


def ordinary() -> None:
    block = VIRT.ram + BLOCK_SIZE
    for offset in range(0, 2 * BLOCK_SIZE, PAGE_SIZE):
        poke64(Va(block + offset), offset)
    log(f"stolen_time {single(ParavirtTime.STOLEN_TIME, 0, 0) * _TICK}")
    log(f"relinquish {max(relinquish(block), relinquish(block + BLOCK_SIZE)) * _TICK}")
    log(f"distributor {distributor() * _TICK}")
    gicd = mmio(Gicd, Va(VIRT.gicd))
    for i in range(1, BANKS):
        gicd.IGROUPR[i] = 0xFFFF_FFFF
        gicd.ISENABLER[i] = 0xFFFF_FFFF
    sysreg.ICC_PMR_EL1 = 0xFF
    sysreg.ICC_IGRPEN1_EL1 = 1
    log(f"run {raised() * _TICK}")
    log(f"irq_line {u64(mmio(Desk, Va(DESK)).MOST) * _TICK}")
    for vcpu in range(1, VCPUS):
        hvc(Psci.CPU_ON_64, vcpu, VIRT.ram, 0)
    log(f"cpu_on {single(Psci.CPU_ON_64, 1, VIRT.ram) * _TICK}")
    hvc(Psci.SYSTEM_RESET)


# The host.


def create(protected: bool) -> u64:
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    page_by_blocks(vm, address(pages.mailbox))
    declare(vm, address(pages.region), VIRT.ram, BLOCKS * BLOCK_SIZE)
    if protected:
        call(Call.ENABLE_CAP, vm, Capability.PROTECTED_VM, ProtectedVm.PROTECT, 0, 0)
    create_device(vm, address(pages.device), DeviceType.VGICV3_DISTRIBUTOR, VIRT.gicd, DISTRIBUTOR_SIZE)
    create_device(
        vm, address(pages.device), DeviceType.VGICV3_REDISTRIBUTOR, VIRT.redistributors, VCPUS * REDISTRIBUTOR_SIZE
    )
    for i in range(VCPUS):
        call(Call.CREATE_VCPU, vm << 16 | i, u64(address(pages.run)) + i * 2 * HWSTATE_OFFSET, 0, 0, 0)
    return vm


def supply(vm: u64, gpa: u64) -> None:
    """The last block page by page, back to front."""
    block = (gpa - VIRT.ram) & ~(BLOCK_SIZE - 1)
    first = (MEMORY + block) // PAGE_SIZE
    for i in range(BLOCK_PAGES):
        pages.mailbox[i] = first + (BLOCK_PAGES - 1 - i if block == (BLOCKS - 1) * BLOCK_SIZE else i)
    call(Call.MAP_GUEST_BLOCK, vm, 0, (VIRT.ram + block) // PAGE_SIZE, BLOCK_PAGES, 0)


def raise_all(vm: u64) -> None:
    for spi in range(INTERRUPTS_MAX - PRIVATE_INTERRUPTS):
        begin = now()
        call(Call.IRQ_LINE, vm << 16, spi, 1, 0, 0)
        spent.most = longer(spent.most, begin)


def serve(vm: u64, page: RunPage) -> None:
    if page.mmio.is_write != 0:
        if page.mmio.phys_addr == VIRT.uart:
            put(u8(page.mmio.data))
        return
    page.mmio.data = 0
    if page.mmio.phys_addr == DESK:
        page.mmio.data = spent.last
    elif page.mmio.phys_addr == DESK + 4:
        raise_all(vm)
    elif page.mmio.phys_addr == DESK + 8:
        page.mmio.data = spent.most


def run(vm: u64, vcpu: u64) -> None:
    """Until the guest ends or resets itself."""
    page = view(RunPage, address(pages.run))
    back = now()
    while True:
        spent.last = now() - back
        _, reason, _, _ = hvc(SMC64_BASE + Call.RUN, vcpu)
        back = now()
        if reason == ExitReason.MMIO:
            serve(vm, page)
        elif reason == ExitReason.EXCEPTION:
            supply(vm, page.exception.fault_gpa)
        elif reason == ExitReason.SYSTEM_EVENT:
            return
        elif reason != ExitReason.IRQ and reason != ExitReason.GZ and reason != ExitReason.HYPERCALL:
            panic(f"RUN came back with {reason:#x}")


def life(image: u64, size: u64, protected: bool) -> None:
    for offset in range(0, size, _WORD):
        poke64(Va(MEMORY + offset), peek64(Va(image + offset)))
    vm = create(protected)
    vcpu = VcpuTuple(VMID=u32(vm), VCPU=0)
    call(Call.SET_ONE_REG, vcpu, PC, VIRT.ram, 0, 0)
    call(Call.SET_ONE_REG, vcpu, PSTATE, BOOT_PSTATE, 0, 0)
    run(vm, vcpu)
    if not protected:
        begin = now()
        call(Call.SET_ONE_REG, vcpu, PC, VIRT.ram, 0, 0)
        log(f"reset {longer(0, begin) * _TICK}")
    begin = now()
    status, _, _, _ = hvc(SMC64_BASE + Call.DESTROY_VM, vm, 1, 0, 0, 0)
    log(f"destroy {longer(0, begin) * _TICK}")
    if status != 0:
        call(Call.DESTROY_VM, vm, 0, 0, 0, 0)


@export
def payload(tree: Va) -> None:
    """Without a device tree it is the guest."""
    if tree == 0:
        protected, _, _, _ = hvc(VendorCall.MMIO_GUARD_INFO, 0, 0, 0)
        if protected == PAGE_SIZE:
            private()
        else:
            ordinary()
        return
    image, size = initrd.find(tree)
    life(image, size, True)
    life(image, size, False)
