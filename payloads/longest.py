# SPDX-License-Identifier: Apache-2.0
"""Every call of the host with the largest arguments: the core's trace says how long each took.

First a VM with all that it may have; then short lives of VMs, protected or not, each with 2 MiB that came in another
way. After each it says so and waits for a byte: somebody may look at the trace. While it waits it asks for PSCI's
version, which the trace does not record.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.devices import DISTRIBUTOR_SIZE, REDISTRIBUTOR_SIZE, DeviceType
from gz.abi.memory import (
    BLOCK_PAGES,
    BLOCK_SIZE,
    CONSTITUENTS_MAX,
    REGION_BUFFER_SIZE,
    Constituent,
    MemoryRegion,
)
from gz.abi.registers import PC
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE
from gz.arm64.insn import hvc
from gz.arm64.pl011 import FR, Pl011
from gz.arm64.psci import Psci
from gz.bits import Array, Struct, Va, array, storage, u8, u64
from gz.metal import address, export, log, mmio, view
from gz.vmm.maps import VIRT
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.host_call import call, create_device, declare, page_by_blocks

#: RAM that nothing else uses, with 512 MiB in the machine.
MEMORY = 0x5800_0000
BLOCKS = 4
WHOLE, SCATTERED, ADJACENT, LISTED = range(BLOCKS)
VCPUS = 8


class Pages(Struct, align=PAGE_SIZE):
    """What the calls share with the core."""

    run: Array[u8] = array(VCPUS * 2 * HWSTATE_OFFSET)
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)
    device: Array[u8] = array(PAGE_SIZE)


pages = storage(Pages)


def create() -> u64:
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    page_by_blocks(vm, address(pages.mailbox))
    declare(vm, address(pages.region), VIRT.ram, BLOCKS * BLOCK_SIZE)
    return vm


def gfn(block: u64) -> u64:
    return VIRT.ram // PAGE_SIZE + block * BLOCK_PAGES


def mail(block: u64, scattered: bool) -> None:
    first = (MEMORY + block * BLOCK_SIZE) // PAGE_SIZE
    for i in range(BLOCK_PAGES):
        pages.mailbox[i] = first + ((BLOCK_PAGES - 1 - i) if scattered else i)


def map_one(vm: u64, way: u64) -> None:
    """A block, its pages back to front, as many of a list, 512 pages that are no block."""
    if way == LISTED:
        region = view(MemoryRegion, address(pages.region))
        region.total_pages = CONSTITUENTS_MAX
        region.gpa = VIRT.ram + way * BLOCK_SIZE
        region.constituent_count = CONSTITUENTS_MAX
        runs = view(Array[Constituent], address(pages.region) + MemoryRegion.size, CONSTITUENTS_MAX)
        for i in range(CONSTITUENTS_MAX):
            runs[i].address = MEMORY + (way + BLOCKS) * BLOCK_SIZE - (i + 1) * PAGE_SIZE
            runs[i].page_count = 1
        call(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(pages.region)), 0, 0)
    elif way == ADJACENT:
        call(Call.MAP_GUEST, vm, 0, MEMORY // PAGE_SIZE + way * BLOCK_PAGES + 1, gfn(way), BLOCK_PAGES)
    else:
        mail(way, way == SCATTERED)
        call(Call.MAP_GUEST_BLOCK, vm, 0, gfn(way), BLOCK_PAGES, 0)


def destroy(vm: u64) -> None:
    while True:
        status, _, _, _ = hvc(SMC64_BASE + Call.DESTROY_VM, vm, BLOCK_PAGES, 0, 0, 0)
        if status == 0:
            return


def pause() -> None:
    log("look")
    uart = mmio(Pl011, Va(VIRT.uart))
    while FR(uart.FR).RXFE != 0:
        hvc(Psci.VERSION)
    byte = uart.DR
    if byte == 0:
        log("a byte that says nothing")


def life() -> None:
    call(Call.PROBE, 16, 0, 0, 0, 0)
    vm = create()
    create_device(vm, address(pages.device), DeviceType.VGICV3_DISTRIBUTOR, VIRT.gicd, DISTRIBUTOR_SIZE)
    create_device(
        vm, address(pages.device), DeviceType.VGICV3_REDISTRIBUTOR, VIRT.gicd + 0xA_0000, VCPUS * REDISTRIBUTOR_SIZE
    )
    for i in range(VCPUS):
        call(Call.CREATE_VCPU, vm << 16 | i, u64(address(pages.run)) + i * 2 * HWSTATE_OFFSET, 0, 0, 0)
    call(Call.SET_ONE_REG, vm << 16, PC, VIRT.ram, 0, 0)
    call(Call.GET_ONE_REG, vm << 16, PC, 0, 0, 0)
    pause()
    for way in range(BLOCKS):
        map_one(vm, way)
        pause()
    call(Call.IRQ_LINE, vm << 16, 40, 1, 0, 0)
    call(Call.INFORM_EXIT, vm, 0, 0, 0, 0)
    call(Call.GET_STATISTICS, vm, 0, 0, 0, 0)
    call(Call.SET_DTB_CONFIG, vm, VIRT.ram, BLOCK_SIZE, 0, 0)
    call(Call.DESTROY_VCPU, vm << 16 | 1, 0, 0, 0, 0)
    pause()
    destroy(vm)
    pause()


@export
def payload(tree: Va) -> None:
    life()
    for protected in range(2):
        for way in range(BLOCKS):
            vm = create()
            if protected != 0:
                call(Call.ENABLE_CAP, vm, Capability.PROTECTED_VM, ProtectedVm.PROTECT, 0, 0)
            map_one(vm, way)
            pause()
            destroy(vm)
            pause()
