# SPDX-License-Identifier: Apache-2.0
"""What the memory calls of a host cost: average instructions of one call, from the host's side (see payloads/exits.py).

A guest's memory is lent as blocks of adjacent pages, as blocks of scattered pages, page by page; then the VM is
destroyed, which gives it all back. The same with memory that is a protected VM's alone, and with a guest of 512 MiB.
"""

from __future__ import annotations

from gz.abi.calls import Call
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE, MemoryRegion, Purpose
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE
from gz.arm64.insn import isb
from gz.arm64.sysreg import sysreg
from gz.bits import Array, Struct, Va, array, storage, u8, u64
from gz.metal import address, export, log, noinline, view
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.host_call import call

#: RAM that nothing else uses, with 1 GiB in the machine.
MEMORY = 0x5800_0000
BLOCKS = 32
LARGE_BLOCKS = 256
PAGES = 256
ROUNDS = 64
_NANOSECONDS = 1_000_000_000


class SharedPages(Struct, align=PAGE_SIZE):
    """What the calls share with the core."""

    run: Array[u8] = array(2 * HWSTATE_OFFSET)
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)


shared = storage(SharedPages)


def now() -> u64:
    isb()
    ticks = sysreg.CNTVCT_EL0
    isb()
    return ticks


def instructions(begin: u64, rounds: u64) -> u64:
    return (now() - begin) * _NANOSECONDS // (sysreg.CNTFRQ_EL0 * rounds)


def create(blocks: u64) -> u64:
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.DEMAND_PAGING, 0, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, u64(address(shared.mailbox)), 0)
    region = view(MemoryRegion, address(shared.region))
    region.slot = 0
    region.total_pages = blocks * BLOCK_PAGES
    region.gpa = 0
    call(Call.MEMREGION_PURPOSE, vm, 0, blocks * BLOCK_SIZE, Purpose.GUEST_MEMORY, 0)
    call(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(shared.region)), 0, 0)
    return vm


def create_protected() -> u64:
    vm = create(BLOCKS)
    call(Call.ENABLE_CAP, vm, Capability.PROTECTED_VM, ProtectedVm.PROTECT, 0, 0)
    return vm


@noinline
def vm_life() -> None:
    begin = now()
    for _ in range(ROUNDS):
        vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
        call(Call.DESTROY_VM, vm, 0, 0, 0, 0)
    log(f"vm_create_destroy {instructions(begin, ROUNDS)}")
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    begin = now()
    for _ in range(ROUNDS):
        call(Call.CREATE_VCPU, vm << 16, u64(address(shared.run)), 0, 0, 0)
        call(Call.DESTROY_VCPU, vm << 16, 0, 0, 0, 0)
    log(f"vcpu_create_destroy {instructions(begin, ROUNDS)}")
    call(Call.DESTROY_VM, vm, 0, 0, 0, 0)


def mail(block: u64, scattered: bool) -> None:
    first = (MEMORY + block * BLOCK_SIZE) // PAGE_SIZE
    for i in range(BLOCK_PAGES):
        shared.mailbox[i] = first + ((BLOCK_PAGES - 1 - i) if scattered else i)


def map_blocks(vm: u64, blocks: u64, scattered: bool) -> u64:
    """Instructions of all of them."""
    spent: u64 = 0
    for block in range(blocks):
        mail(block, scattered)
        begin = now()
        call(Call.MAP_GUEST_BLOCK, vm, 0, block * BLOCK_PAGES, BLOCK_PAGES, 0)
        spent += instructions(begin, 1)
    return spent


def map_pages(vm: u64) -> u64:
    """Of one page; no two of them are adjacent."""
    begin = now()
    for page in range(PAGES):
        call(Call.MAP_GUEST, vm, 0, MEMORY // PAGE_SIZE + 3 * page, page, 1)
    return instructions(begin, PAGES)


def destroy(vm: u64, parts: u64) -> u64:
    begin = now()
    call(Call.DESTROY_VM, vm, 0, 0, 0, 0)
    return instructions(begin, parts)


@noinline
def lent() -> None:
    vm = create(BLOCKS)
    log(f"map_block {map_blocks(vm, BLOCKS, False) // BLOCKS}")
    log(f"map_block_again {map_blocks(vm, BLOCKS, False) // BLOCKS}")
    log(f"destroy_block {destroy(vm, BLOCKS)}")
    vm = create(BLOCKS)
    log(f"map_block_scattered {map_blocks(vm, BLOCKS, True) // BLOCKS}")
    log(f"destroy_block_scattered {destroy(vm, BLOCKS)}")
    empty = destroy(create(BLOCKS), 1)
    vm = create(BLOCKS)
    log(f"map_page {map_pages(vm)}")
    log(f"destroy_page {(destroy(vm, 1) - empty) // PAGES}")


@noinline
def private() -> None:
    vm = create_protected()
    log(f"map_private_block {map_blocks(vm, BLOCKS, False) // BLOCKS}")
    log(f"destroy_private_block {destroy(vm, BLOCKS)}")
    empty = destroy(create_protected(), 1)
    vm = create_protected()
    log(f"map_private_page {map_pages(vm)}")
    log(f"destroy_private_page {(destroy(vm, 1) - empty) // PAGES}")


@noinline
def large() -> None:
    """512 MiB in huge pages; `tables`: bytes that the core spends on it without a vCPU."""
    begin = now()
    vm = create(LARGE_BLOCKS)
    spent = instructions(begin, 1) + map_blocks(vm, LARGE_BLOCKS, False)
    tables = call(Call.GET_STATISTICS, vm, 0, 0, 0, 0)
    log(f"large_vm {spent + destroy(vm, 1)}")
    log(f"large_vm_tables {tables}")


@export
def payload(tree: Va) -> None:
    vm_life()
    lent()
    private()
    large()
