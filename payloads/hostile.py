# SPDX-License-Identifier: Apache-2.0
"""A host whose calls are nearly right: some VMs, vCPUs and pages, in every order, and guests that run what lies there.

At the end all VMs are destroyed, and every page of the memory they fought for must be the host's alone again: it
is lent to one more VM from end to end. Prints how many calls succeeded.
"""

from __future__ import annotations

from gz.abi.calls import SMC32_BASE, SMC64_BASE, Call
from gz.abi.capabilities import Capability
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE, Constituent, MemoryRegion, Purpose
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE
from gz.abi.run import PAGE_SIZE
from gz.arm64.insn import hvc, isb
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Array, Struct, Va, array, storage, u8, u32, u64
from gz.metal import address, export, log, panic, poke32, poke64, view
from gz.vmm.maps import VIRT
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.random import random, seed

MEMORY = 0x5800_0000  # with 512 MiB in the machine nothing else lies there
BLOCKS = 8
ROUNDS = 20_000
VMS = 3
VCPUS = 2
_SEED = 88172645463325252
_DEADLINE = 1000  # ticks that a guest may run
_UNDEFINED = 0x0000_0000  # UDF
_BRANCH_BACK = 0x17FF_FFFF  # b .-4
_STORE = 0xF900_0001  # str x1, [x0]
_LOAD = 0xF940_0002  # ldr x2, [x0]
_HVC = 0xD400_0002
_WFI = 0xD503_207F


class HostPages(Struct, align=PAGE_SIZE):
    """What the calls share with the core."""

    run: Array[u8] = array(8 * PAGE_SIZE)
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    request: Array[u8] = array(PAGE_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)


class Score(Struct):
    good: u64
    runs: u64


own = storage(HostPages)
SCORE = storage(Score)


def call(index: u64, a: u64, b: u64, c: u64, d: u64, e: u64) -> bool:
    base: u64 = SMC64_BASE if random() & 1 != 0 else SMC32_BASE
    status, _, _, _ = hvc(base + index, a, b, c, d, e)
    if status == 0:
        SCORE.good += 1
    return status == 0


def page() -> u64:
    """A page's physical address: mostly of the memory fought for, sometimes where nothing may be lent or shared."""
    pick = random()
    if pick % 16 == 0:
        return VIRT.uart
    if pick % 16 == 1:
        return random() & 0x7FFF_F000  # devices, the core, the payload's own
    return MEMORY + (pick >> 8) % 64 * PAGE_SIZE + (pick >> 20) % 2 * BLOCK_SIZE


def fill_memory() -> None:
    """Code for guests: little programs that fault, store to devices, call, wait or never end."""
    for offset in range(0, 2 * BLOCK_SIZE, 16):
        pick = random() % 8
        first: u32 = _STORE
        if pick == 1:
            first = _LOAD
        elif pick == 2:
            first = _HVC
        elif pick == 3:
            first = _WFI
        elif pick == 4:
            first = _UNDEFINED
        poke32(Va(MEMORY + offset), first)
        poke32(Va(MEMORY + offset + 4), _STORE)
        poke32(Va(MEMORY + offset + 8), _LOAD)
        poke32(Va(MEMORY + offset + 12), _BRANCH_BACK)


def region(vm: u64, populate: bool) -> None:
    """Declare slot 0 at 0, or populate some of it."""
    head = view(MemoryRegion, address(own.region))
    head.slot = 0
    head.gpa = 0
    head.total_pages = 2 * BLOCK_PAGES
    if populate:
        runs = view(Array[Constituent], address(own.region) + MemoryRegion.size, 4)
        head.constituent_count = 2
        head.gpa = random() % 8 * PAGE_SIZE
        runs[0].address = page()
        runs[0].page_count = u32(random() % 3) + 1
        runs[1].address = page()
        runs[1].page_count = 1
        head.total_pages = runs[0].page_count + 1
    else:
        call(Call.MEMREGION_PURPOSE, vm, 0, 2 * BLOCK_SIZE, Purpose.GUEST_MEMORY, 0)
    call(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(own.region)), 0, 0)


def device(vm: u64) -> None:
    request = address(own.request)
    poke64(request, random() & 1)
    poke64(request + 8, 0)
    poke64(request + 16, VIRT.gicd + (random() & 1) * 0x10_0000)
    poke64(request + 24, 0x2_0000)
    poke64(request + 40, 0)
    call(Call.CREATE_DEVICE, vm, u64(request), 0, 0, 0)


def run(vcpu: u64) -> None:
    """With a deadline: a guest need not ever come back by itself."""
    call(Call.SET_ONE_REG, vcpu, PC, random() % BLOCK_SIZE & ~u64(3), 0, 0)
    call(Call.SET_ONE_REG, vcpu, PSTATE, BOOT_PSTATE, 0, 0)
    sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0 + _DEADLINE
    sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
    isb()
    status, reason, _, _ = hvc(SMC64_BASE + Call.RUN, vcpu)
    SCORE.runs += 1 if status == Error.NO_ERROR else 0
    if reason >> 8 != ExitReason.UNKNOWN >> 8:
        panic(f"RUN came back with {reason:#x}")


def step() -> None:
    vm = 1 + random() % VMS
    vcpu = vm << 16 | random() % VCPUS
    mailbox = u64(address(own.mailbox))
    match random() % 24:
        case 0:
            status, handle, _, _ = hvc(SMC64_BASE + Call.CREATE_VM)
            if status == 0 and handle > VMS:  # the others would take all of the core's frames in the end
                call(Call.DESTROY_VM, handle, 0, 0, 0, 0)
        case 1:
            call(Call.DESTROY_VM, vm, random() % 3, 0, 0, 0)
        case 2 | 3:
            call(Call.CREATE_VCPU, vcpu, u64(address(own.run)) + random() % 4 * 2 * PAGE_SIZE, 0, 0, 0)
        case 4:
            call(Call.DESTROY_VCPU, vcpu, 0, 0, 0, 0)
        case 5 | 6:
            region(vm, False)
        case 7 | 8:
            region(vm, True)
        case 9:
            where = mailbox if random() & 3 != 0 else page()
            call(Call.ENABLE_CAP, vm, Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, where, 0)
        case 10:
            call(Call.ENABLE_CAP, vm, Capability.IDLE, 0, 0, 0)
        case 11 | 12 | 13:
            call(Call.MAP_GUEST, vm, 0, page() // PAGE_SIZE, random() % 32, 1 + random() % 3)
        case 14 | 15:
            first = page() // PAGE_SIZE
            for i in range(BLOCK_PAGES):
                own.mailbox[i] = first + i
            call(Call.MAP_GUEST_BLOCK, vm, 0, random() % 2 * BLOCK_PAGES, BLOCK_PAGES >> random() % 10, 0)
        case 16:
            call(Call.IRQ_LINE, vcpu, random() % 40, random() & 1, 0, 0)
        case 17:
            device(vm)
        case 18:
            call(Call.INFORM_EXIT, vm, 0, 0, 0, 0)
        case 19:
            call(Call.GET_REGS + random() % 20, random() & 0x3_0001, page(), page(), random(), random())
        case _:
            run(vcpu)


def lend_all() -> bool:
    """All of the memory to one VM, the pages that were shared too."""
    _, vm, _, _ = hvc(SMC64_BASE + Call.CREATE_VM)
    good = call(Call.ENABLE_CAP, vm, Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, u64(address(own.mailbox)), 0)
    head = view(MemoryRegion, address(own.region))
    head.slot = 0
    head.total_pages = BLOCKS * BLOCK_PAGES
    head.gpa = 0
    good = call(Call.MEMREGION_PURPOSE, vm, 0, BLOCKS * BLOCK_SIZE, Purpose.GUEST_MEMORY, 0) and good
    good = call(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(own.region)), 0, 0) and good
    for block in range(BLOCKS):
        for i in range(BLOCK_PAGES):
            own.mailbox[i] = (MEMORY + block * BLOCK_SIZE) // PAGE_SIZE + i
        good = call(Call.MAP_GUEST_BLOCK, vm, 0, block * BLOCK_PAGES, BLOCK_PAGES, 0) and good
    return call(Call.DESTROY_VM, vm, 0, 0, 0, 0) and good


@export
def payload(blob: Va) -> None:
    interrupts.enable()
    seed(_SEED)
    fill_memory()
    for _ in range(ROUNDS):
        step()
    for vm in range(1, 65):
        call(Call.DESTROY_VM, vm, 0, 0, 0, 0)
    log(f"{SCORE.good} succeeded, {SCORE.runs} runs")
    if lend_all():
        log("all memory came back")
