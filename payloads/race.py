# SPDX-License-Identifier: Apache-2.0
"""CPUs of a host that race: the same VMs, vCPUs and pages, protected VMs among them, and guests that show, hide, give
back and write while they are destroyed.

At the end all VMs are destroyed, and every page that they fought for must be the host's alone again: it is lent to
one more VM from end to end.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call
from gz.abi.capabilities import Capability, ProtectedVm
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.abi.guest import VendorCall
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE, MemoryRegion, Purpose
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE, X0
from gz.abi.run import PAGE_SIZE
from gz.arm64.insn import hvc, isb
from gz.arm64.registers import SPSR
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Array, Struct, Va, array, storage, u8, u64
from gz.metal import address, export, log, panic, poke32, unroll, view
from payloads import cores, exceptions, interrupts, start  # noqa: F401 - parts of every payload

MEMORY = 0x5800_0000  # with 512 MiB in the machine nothing else lies there
BLOCKS = 2
PAGES = 48  # of the first block, one by one; the second goes as a whole
ROUNDS = 40_000  # of all CPUs together
VMS = 3
VCPUS = 2
_DEADLINE = 2000  # ticks that a guest may run

#: hvc with x0 = x4, then with x0 = x5; a store; the next of 64 pages; again. x1 and the address are x6.
_PROGRAM = (
    0xAA04_03E0,  # mov x0, x4
    0xAA06_03E1,  # mov x1, x6
    0xD280_0002,  # mov x2, #0
    0xD280_0003,  # mov x3, #0
    0xD400_0002,  # hvc #0
    0xAA05_03E0,  # mov x0, x5
    0xAA06_03E1,  # mov x1, x6
    0xD280_0002,  # mov x2, #0
    0xD280_0003,  # mov x3, #0
    0xD400_0002,  # hvc #0
    0xF900_08C6,  # str x6, [x6, #16]
    0x9140_04C6,  # add x6, x6, #1, lsl #12
    0x9240_44C6,  # and x6, x6, #0x3ffff
    0x17FF_FFF3,  # b .-52
)


class CpuPages(Struct, align=PAGE_SIZE):
    """What one CPU's calls share with the core."""

    run: Array[u8] = array(8 * PAGE_SIZE)
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)


class Player(Struct, align=64):
    random: u64
    good: u64
    runs: u64


OWN = storage(CpuPages, cores.CPUS_MAX)
PLAYERS = storage(Player, cores.CPUS_MAX)


def draw(player: Player, count: u64) -> u64:
    """Below `count`; xorshift (Marsaglia, 2003)."""
    x = player.random
    x ^= x << 13
    x ^= x >> 7
    x ^= x << 17
    player.random = x
    return (x >> 11) % count


def call(player: Player, index: u64, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64:
    """The status."""
    status, _, _, _ = hvc(SMC64_BASE + index, a, b, c, d, e)
    if status == 0:
        player.good += 1
    return status


def write_programs() -> None:
    """One at the start of each page. What is private is an abort, which is expected."""
    for page in range(PAGES):
        for i, word in unroll(tuple(enumerate(_PROGRAM))):
            poke32(Va(MEMORY + page * PAGE_SIZE + 4 * i), word)


def begin(player: Player, own: CpuPages, vm: u64) -> None:
    """As a VMM begins, whoever else does so for the same VM."""
    call(player, Call.ENABLE_CAP, vm, Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, u64(address(own.mailbox)), 0)
    head = view(MemoryRegion, address(own.region))
    head.slot = 0
    head.total_pages = BLOCKS * BLOCK_PAGES
    head.gpa = 0
    call(player, Call.MEMREGION_PURPOSE, vm, 0, BLOCKS * BLOCK_SIZE, Purpose.GUEST_MEMORY, 0)
    call(player, Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(own.region)), 0, 0)
    if draw(player, 2) == 0:
        call(player, Call.ENABLE_CAP, vm, Capability.PROTECTED_VM, ProtectedVm.PROTECT, 0, 0)
    for vcpu in range(VCPUS):
        call(player, Call.CREATE_VCPU, vm << 16 | vcpu, u64(address(own.run)) + vcpu * 2 * PAGE_SIZE, 0, 0, 0)


def run(player: Player, vcpu: u64) -> None:
    """With a deadline: a guest need not ever come back by itself."""
    first = VendorCall.MEM_SHARE + draw(player, 2)
    second: u64 = VendorCall.MEM_RELINQUISH if draw(player, 2) == 0 else VendorCall.MEM_UNSHARE
    call(player, Call.SET_ONE_REG, vcpu, PC, draw(player, PAGES) * PAGE_SIZE, 0, 0)
    call(player, Call.SET_ONE_REG, vcpu, PSTATE, BOOT_PSTATE, 0, 0)
    call(player, Call.SET_ONE_REG, vcpu, X0 + 2 * 4, first, 0, 0)
    call(player, Call.SET_ONE_REG, vcpu, X0 + 2 * 5, second, 0, 0)
    call(player, Call.SET_ONE_REG, vcpu, X0 + 2 * 6, draw(player, PAGES) * PAGE_SIZE, 0, 0)
    sysreg.DAIF = SPSR(I=1)  # one that comes before the RUN has to end it, too
    sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0 + _DEADLINE
    sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
    isb()
    status, reason, _, _ = hvc(SMC64_BASE + Call.RUN, vcpu)
    sysreg.DAIF = 0
    player.runs += 1 if status == Error.NO_ERROR else 0
    if reason >> 8 != ExitReason.UNKNOWN >> 8:
        panic(f"RUN came back with {reason:#x}\n")


def step(player: Player, own: CpuPages) -> None:
    vm = 1 + draw(player, VMS)
    vcpu = vm << 16 | draw(player, VCPUS)
    match draw(player, 24):
        case 0 | 1:
            status, handle, _, _ = hvc(SMC64_BASE + Call.CREATE_VM)
            if status == 0 and handle > VMS:
                call(player, Call.DESTROY_VM, handle, 0, 0, 0, 0)
            begin(player, own, vm)
        case 2:
            if draw(player, 2) == 0:
                call(player, Call.DESTROY_VM, vm, draw(player, 3), 0, 0, 0)
        case 3 | 4 | 5:
            call(player, Call.CREATE_VCPU, vcpu, u64(address(own.run)) + draw(player, 4) * 2 * PAGE_SIZE, 0, 0, 0)
        case 6:
            call(player, Call.DESTROY_VCPU, vcpu, 0, 0, 0, 0)
        case 7:
            begin(player, own, vm)
        case 8:
            write_programs()
        case 9:
            for i in range(BLOCK_PAGES):
                own.mailbox[i] = (MEMORY + BLOCK_SIZE) // PAGE_SIZE + i
            call(player, Call.MAP_GUEST_BLOCK, vm, 0, BLOCK_PAGES, BLOCK_PAGES, 0)
        case 10 | 11 | 12 | 13 | 14 | 15:
            page = draw(player, PAGES)
            call(player, Call.MAP_GUEST, vm, 0, MEMORY // PAGE_SIZE + page, page, 1 + draw(player, 3))
        case 16:
            call(player, Call.IRQ_LINE, vcpu, draw(player, 40), draw(player, 2), 0, 0)
        case 17:
            call(player, Call.INFORM_EXIT, vm, 0, 0, 0, 0)
        case 18:
            call(player, Call.GET_STATISTICS, vm, 0, 0, 0, 0)
        case _:
            run(player, vcpu)


@export
def job(cpu: u64, number: u64) -> u64:
    """Plays its part of the rounds; the number is that part."""
    interrupts.enable()
    player = PLAYERS[cpu]
    player.random = 88172645463325252 + cpu * 7919
    for _ in range(number):
        step(player, OWN[cpu])
    return player.good


def lend_all(player: Player, own: CpuPages) -> bool:
    """All of the memory to one VM, the pages that were shared too."""
    _, vm, _, _ = hvc(SMC64_BASE + Call.CREATE_VM)
    begin(player, own, vm)
    good = True
    for block in range(BLOCKS):
        for i in range(BLOCK_PAGES):
            own.mailbox[i] = (MEMORY + block * BLOCK_SIZE) // PAGE_SIZE + i
        status = call(player, Call.MAP_GUEST_BLOCK, vm, 0, block * BLOCK_PAGES, BLOCK_PAGES, 0)
        good = status == 0 and good
    return call(player, Call.DESTROY_VM, vm, 0, 0, 0, 0) == 0 and good


@export
def payload(tree: Va) -> None:
    exceptions.expect()
    write_programs()
    count = cores.count()
    for cpu in range(1, count):
        if not cores.switch_on(cpu):
            panic("a CPU does not start\n")
        cores.ask(cpu, ROUNDS // count)
    job(0, ROUNDS // count)
    for cpu in range(1, count):
        while not cores.is_done(cpu):
            pass
    good: u64 = 0
    runs: u64 = 0
    for cpu in range(count):
        good += PLAYERS[cpu].good
        runs += PLAYERS[cpu].runs
    for vm in range(1, 65):
        call(PLAYERS[0], Call.DESTROY_VM, vm, 0, 0, 0, 0)
    log(f"{count} CPUs, {good} succeeded, {runs} runs")
    if lend_all(PLAYERS[0], OWN[0]):
        log("all memory came back")
