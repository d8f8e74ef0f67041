# SPDX-License-Identifier: Apache-2.0
"""The host of a protected VM with firmware: gives it memory, and means ill wherever the calls let it.

The initrd is a page, the guest's tree, and the program that the firmware is to start.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call, VcpuTuple
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.exits import ExitReason
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE, MemoryRegion, Purpose
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE, X0
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE, RunPage
from gz.arm64.insn import hvc
from gz.arm64.syndrome import ESR_EL2, DataAbort, FaultStatus
from gz.bits import Array, Struct, Va, array, storage, u8, u32, u64
from gz.metal import address, export, log, panic, peek64, poke64, unroll, view
from gz.vmm.maps import VIRT
from payloads import exceptions, initrd, interrupts, start  # noqa: F401 - parts of every payload
from payloads.console import put

#: RAM that nothing else uses, with 512 MiB in the machine: the guest's, then its firmware's.
MEMORY = 0x5800_0000
RAM_BLOCKS = 4
REGION = VIRT.ram + RAM_BLOCKS * BLOCK_SIZE
"""Where the firmware lies."""
KERNEL = VIRT.ram + BLOCK_SIZE
SHARED = VIRT.ram + (RAM_BLOCKS - 1) * BLOCK_SIZE
"""With a page for a tree that asks so (SHARE_SOME), this block of RAM is a slot of its own that stays shared."""
SHARE_SOME = 0x5A4E


class Pages(Struct, align=PAGE_SIZE):
    """What the calls share with the core."""

    run: Array[u8] = array(2 * HWSTATE_OFFSET)
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)


class Tally(Struct):
    refused: u32
    aborts: u32
    touched: u32


pages = storage(Pages)
tally = storage(Tally)


def attempt(index: u64, a: u64, b: u64, c: u64, d: u64) -> tuple[u64, u64]:
    status, value, _, _ = hvc(SMC64_BASE + index, a, b, c, d)
    return status, value


def call(index: u64, a: u64, b: u64, c: u64, d: u64) -> u64:
    """A call that has to succeed; gives x1."""
    status, value = attempt(index, a, b, c, d)
    if status != 0:
        panic(f"call {index} answered {0 - status}")
    return value


def declare(vm: u64, slot: u32, base: u64, blocks: u64, purpose: Purpose) -> u64:
    region = view(MemoryRegion, address(pages.region))
    region.slot = slot
    region.total_pages = blocks * BLOCK_PAGES
    region.gpa = base
    call(Call.MEMREGION_PURPOSE, vm, base, blocks * BLOCK_SIZE, purpose)
    status, _ = attempt(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(pages.region)), 0)
    return status


def create(share_some: bool) -> u64:
    vm = call(Call.CREATE_VM, 0, 0, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.DEMAND_PAGING, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, u64(address(pages.mailbox)))
    blocks: u64 = RAM_BLOCKS - 1 if share_some else RAM_BLOCKS
    declare(vm, 0, VIRT.ram, blocks, Purpose.GUEST_MEMORY)
    if share_some:
        declare(vm, 2, SHARED, 1, Purpose.NONE)
    declare(vm, 1, REGION, 1, Purpose.PROTECTED_FIRMWARE)
    size = call(Call.ENABLE_CAP, vm, Capability.PROTECTED_VM, ProtectedVm.GET_FIRMWARE_SIZE, 0)
    if size == 0:
        panic("the core has no firmware")
    call(Call.ENABLE_CAP, vm, Capability.PROTECTED_VM, ProtectedVm.SET_FIRMWARE, REGION)
    if declare(vm, 1, REGION + BLOCK_SIZE, 1, Purpose.PROTECTED_FIRMWARE) != 0:
        tally.refused += 1
    return vm


def supply(vm: u64, gpa: u64) -> None:
    block = (gpa - VIRT.ram) & ~(BLOCK_SIZE - 1)
    for i in range(BLOCK_PAGES):
        pages.mailbox[i] = (MEMORY + block) // PAGE_SIZE + i
    at = VIRT.ram + block
    slot: u64 = 1 if at == REGION else 0
    first = at // PAGE_SIZE
    status, _ = attempt(Call.MAP_GUEST_BLOCK, vm, slot, first, BLOCK_PAGES)
    if status != 0:
        call(Call.MAP_GUEST_BLOCK, vm, 2, first, BLOCK_PAGES)


def touch(at: u64) -> None:
    """A load and a store."""
    for store in unroll((False, True)):
        if store:
            poke64(Va(at), 0)
        else:
            _ = peek64(Va(at))
        tally.touched += 1
        esr = ESR_EL2(exceptions.taken())
        if DataAbort(esr.ISS).DFSC == FaultStatus.ALIGNMENT:
            tally.aborts += 1


def probe(vcpu: u64) -> None:
    """While the firmware waits for its first letter to be printed."""
    firmware = MEMORY + RAM_BLOCKS * BLOCK_SIZE
    for offset in range(0, 64 * PAGE_SIZE, PAGE_SIZE):
        touch(firmware + offset)
    for register in unroll((PC, X0, PSTATE)):
        status, _ = attempt(Call.SET_ONE_REG, vcpu, register, BOOT_PSTATE, 0)
        if status != 0:
            tally.refused += 1
        status, _ = attempt(Call.GET_ONE_REG, vcpu, register, 0, 0)
        if status != 0:
            tally.refused += 1


def run(vm: u64, vcpu: u64) -> None:
    page = view(RunPage, address(pages.run))
    probed = False
    while True:
        _, reason = attempt(Call.RUN, vcpu, 0, 0, 0)
        if reason == ExitReason.MMIO:
            if not probed:
                probe(vcpu)
                probed = True
            if page.mmio.is_write == 0:
                page.mmio.data = 0
            elif page.mmio.phys_addr == VIRT.uart:
                put(u8(page.mmio.data))
        elif reason == ExitReason.EXCEPTION:
            supply(vm, page.exception.fault_gpa)
        elif reason == ExitReason.SYSTEM_EVENT:
            return
        elif reason != ExitReason.IRQ and reason != ExitReason.GZ:
            panic(f"RUN came back with {reason:#x}")


def host(image: u64, size: u64) -> None:
    for offset in range(0, PAGE_SIZE, 8):
        poke64(Va(MEMORY + offset), peek64(Va(image + offset)))
    for offset in range(PAGE_SIZE, size, 8):
        poke64(Va(MEMORY + BLOCK_SIZE - PAGE_SIZE + offset), peek64(Va(image + offset)))
    for offset in range(0, BLOCK_SIZE, 8):
        poke64(Va(MEMORY + RAM_BLOCKS * BLOCK_SIZE + offset), 0x1400_0000)  # "b ." if it were ever executed
    vm = create(peek64(Va(image + 8)) == SHARE_SOME)
    vcpu = VcpuTuple(VMID=u32(vm), VCPU=0)
    call(Call.CREATE_VCPU, vcpu, u64(address(pages.run)), 0, 0)
    status, _ = attempt(Call.SET_ONE_REG, vcpu, PC, KERNEL, 0)
    if status != 0:
        tally.refused += 1
    call(Call.SET_ONE_REG, vcpu, PSTATE, BOOT_PSTATE, 0)
    call(Call.SET_ONE_REG, vcpu, X0, KERNEL, 0)
    run(vm, vcpu)
    call(Call.DESTROY_VCPU, vcpu, 0, 0, 0)
    call(Call.DESTROY_VM, vm, 0, 0, 0)
    left: u64 = 0
    for offset in range(0, (RAM_BLOCKS + 1) * BLOCK_SIZE, 8):
        if peek64(Va(MEMORY + offset)) != 0:
            left += 1
    log(f"host: {tally.refused} refused, {tally.touched} touched, {tally.aborts} aborts, {left} words left")


@export
def payload(tree: Va) -> None:
    exceptions.expect()
    image, size = initrd.find(tree)
    host(image, size)
