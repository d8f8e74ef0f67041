# SPDX-License-Identifier: Apache-2.0
"""What the memory calls of a host cost: average instructions of one call, from the host's side (see payloads/exits.py).

A guest's memory is lent as blocks of adjacent pages, as blocks of scattered pages, page by page; then the VM is
destroyed, which gives it all back.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call
from gz.abi.capabilities import Capability
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE, MemoryRegion, Purpose
from gz.abi.run import HWSTATE_OFFSET, PAGE_SIZE
from gz.arm64.insn import hvc, isb
from gz.arm64.sysreg import sysreg
from gz.bits import Array, Struct, Va, array, storage, u8, u64
from gz.metal import address, export, log, noinline, panic, view
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload

#: RAM that nothing else uses, with 512 MiB in the machine.
MEMORY = 0x5800_0000
BLOCKS = 32
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


def call(index: u64, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64:
    """A call that has to succeed; gives x1."""
    status, value, _, _ = hvc(SMC64_BASE + index, a, b, c, d, e)
    if status != 0:
        panic(f"call {index} answered {0 - status}")
    return value


def create() -> u64:
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.DEMAND_PAGING, 0, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, u64(address(shared.mailbox)), 0)
    region = view(MemoryRegion, address(shared.region))
    region.slot = 0
    region.total_pages = BLOCKS * BLOCK_PAGES
    region.gpa = 0
    call(Call.MEMREGION_PURPOSE, vm, 0, BLOCKS * BLOCK_SIZE, Purpose.GUEST_MEMORY, 0)
    call(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(shared.region)), 0, 0)
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


def map_blocks(vm: u64, scattered: bool) -> u64:
    spent: u64 = 0
    for block in range(BLOCKS):
        mail(block, scattered)
        begin = now()
        call(Call.MAP_GUEST_BLOCK, vm, 0, block * BLOCK_PAGES, BLOCK_PAGES, 0)
        spent += instructions(begin, 1)
    return spent // BLOCKS


def destroy(vm: u64) -> u64:
    begin = now()
    call(Call.DESTROY_VM, vm, 0, 0, 0, 0)
    return instructions(begin, BLOCKS)


@noinline
def memory() -> None:
    vm = create()
    log(f"map_block {map_blocks(vm, False)}")
    log(f"map_block_again {map_blocks(vm, False)}")
    log(f"destroy_block {destroy(vm)}")
    vm = create()
    log(f"map_block_scattered {map_blocks(vm, True)}")
    log(f"destroy_block_scattered {destroy(vm)}")
    vm = create()
    begin = now()
    for page in range(PAGES):
        call(Call.MAP_GUEST, vm, 0, MEMORY // PAGE_SIZE + 3 * page, page, 1)
    log(f"map_page {instructions(begin, PAGES)}")
    call(Call.DESTROY_VM, vm, 0, 0, 0, 0)


@export
def payload(tree: Va) -> None:
    vm_life()
    memory()
