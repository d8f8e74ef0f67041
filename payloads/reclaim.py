# SPDX-License-Identifier: Apache-2.0
"""A guest gives pages back on one CPU while on another CPU it writes to them, and to their neighbours, all the time.

The page is one of a block, which is split for it and whole again when the same page is mapped there. Prints how often,
how many words of such pages were not zero when the call came back or a while later, and how many stores to a neighbour
were lost.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call
from gz.abi.capabilities import Capability
from gz.abi.exits import ExitReason
from gz.abi.guest import VendorCall
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE
from gz.abi.run import PAGE_SIZE, RunPage
from gz.arm64.insn import hvc, isb
from gz.arm64.psci import Psci
from gz.arm64.registers import SPSR
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Array, Struct, Va, array, storage, u8, u64
from gz.metal import address, export, load_acquire, log, panic, peek64, poke32, store_release, unroll, view
from gz.vmm.maps import VIRT
from payloads import cores, exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.host_call import call, declare

MEMORY = 0x5800_0000  # with 512 MiB in the machine nothing else lies there
ELSEWHERE = MEMORY + BLOCK_SIZE  # the page that replaces the one given back, every second time
ROUNDS = 300
PAGE = 300  # of the block
_LATER = 20  # microseconds
_DEADLINE = 60_000  # ticks that a guest runs at most
_SECOND = 0x800  # where the second vCPU's program lies
_HVC = 0xD400_0002


def _load(register: int, value: int) -> list[int]:
    """movz, movk."""
    return [0xD280_0000 | (value & 0xFFFF) << 5 | register, 0xF2A0_0000 | (value >> 16 & 0xFFFF) << 5 | register]


#: Switches the second vCPU on; counts into the page and its neighbour, and tells of a count that did not stay there.
_WRITER = (
    *_load(0, int(Psci.CPU_ON_64)),
    *_load(1, 1),
    *_load(2, _SECOND),
    *_load(3, 0),
    _HVC,
    *_load(4, PAGE * PAGE_SIZE),
    *_load(5, (PAGE + 1) * PAGE_SIZE),
    *_load(6, 0),
    0x9100_04C6,  # add x6, x6, #1
    0xF900_0086,  # str x6, [x4]
    0xF900_00A6,  # str x6, [x5]
    0xF940_00A7,  # ldr x7, [x5]
    0xEB06_00FF,  # cmp x7, x6
    0x54FF_FF60,  # b.eq .-20
    *_load(8, VIRT.uart),
    0xF900_0106,  # str x6, [x8]
    0x17FF_FFF7,  # b .-36
)
#: Gives the page back and tells what the call answered, again and again.
_GIVER = (
    *_load(0, int(VendorCall.MEM_RELINQUISH)),
    *_load(1, PAGE * PAGE_SIZE),
    *_load(2, 0),
    *_load(3, 0),
    _HVC,
    *_load(8, VIRT.uart),
    0xF900_0100,  # str x0, [x8]
    0x17FF_FFF4,  # b .-48
)


class Shared(Struct, align=PAGE_SIZE):
    """What the calls share with the core."""

    run: Array[u8] = array(4 * PAGE_SIZE)
    region: Array[u8] = array(REGION_BUFFER_SIZE)
    mailbox: Array[u64] = array(BLOCK_PAGES)


class Game(Struct):
    vm: u64
    mapped: u64  # times that the page has been supplied
    over: u64
    lost: u64  # stores to the neighbour


shared = storage(Shared)
GAME = storage(Game)


def enter(vcpu: u64) -> u64:
    """RUN with a deadline; the reason of the exit."""
    sysreg.DAIF = SPSR(I=1)
    sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0 + _DEADLINE
    sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
    isb()
    _, reason, _, _ = hvc(SMC64_BASE + Call.RUN, vcpu)
    sysreg.DAIF = 0
    return reason


@export
def job(cpu: u64, number: u64) -> u64:
    """The writer's CPU."""
    interrupts.enable()
    while load_acquire(GAME.over) == 0:
        supplied = load_acquire(GAME.mapped)
        reason = enter(GAME.vm << 16)
        if reason == ExitReason.MMIO:
            GAME.lost += 1
        elif reason == ExitReason.EXCEPTION:
            while load_acquire(GAME.mapped) == supplied and load_acquire(GAME.over) == 0:
                pass
    return 0


def create() -> u64:
    for i, word in unroll(tuple(enumerate(_WRITER))):
        poke32(Va(MEMORY + 4 * i), word)
    for i, word in unroll(tuple(enumerate(_GIVER))):
        poke32(Va(MEMORY + _SECOND + 4 * i), word)
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    call(Call.ENABLE_CAP, vm, Capability.BLOCK_DEMAND_PAGING, BLOCK_SIZE, u64(address(shared.mailbox)), 0)
    declare(vm, address(shared.region), 0, BLOCK_SIZE)
    for vcpu in range(2):
        call(Call.CREATE_VCPU, vm << 16 | vcpu, u64(address(shared.run)) + vcpu * 2 * PAGE_SIZE, 0, 0, 0)
        call(Call.SET_ONE_REG, vm << 16 | vcpu, PSTATE, BOOT_PSTATE, 0, 0)
    call(Call.SET_ONE_REG, vm << 16, PC, 0, 0, 0)
    call(Call.MAP_GUEST, vm, 0, MEMORY // PAGE_SIZE, 0, BLOCK_PAGES)
    return vm


def give_back(vcpu: u64) -> u64:
    """Until the guest's call has come back; what it answered."""
    page = view(RunPage, address(shared.run) + 2 * PAGE_SIZE)
    while True:
        reason = enter(vcpu)
        if reason == ExitReason.MMIO:
            return page.mmio.data
        if reason == ExitReason.EXCEPTION:
            panic("the page is missing already\n")


def words_left(page: u64) -> u64:
    count: u64 = 0
    for offset in range(0, PAGE_SIZE, 8):
        if peek64(Va(page + offset)) != 0:
            count += 1
    return count


@export
def payload(tree: Va) -> None:
    interrupts.enable()
    if not cores.switch_on(1):
        panic("CPU 1 does not start\n")
    GAME.vm = create()
    cores.ask(1, 0)
    here: u64 = MEMORY + PAGE * PAGE_SIZE
    late: u64 = 0
    refused: u64 = 0
    for turn in range(ROUNDS):
        if give_back(GAME.vm << 16 | 1) != 0:
            refused += 1
        late += words_left(here)
        end = cores.deadline(_LATER)
        while not cores.passed(end):
            pass
        late += words_left(here)
        here = MEMORY + PAGE * PAGE_SIZE if turn % 2 == 0 else ELSEWHERE
        call(Call.MAP_GUEST, GAME.vm, 0, here // PAGE_SIZE, PAGE, 1)
        store_release(GAME.mapped, GAME.mapped + 1)
    store_release(GAME.over, 1)
    while not cores.is_done(1):
        pass
    count = peek64(Va(MEMORY + (PAGE + 1) * PAGE_SIZE))
    call(Call.DESTROY_VM, GAME.vm, 0, 0, 0, 0)
    log(f"{ROUNDS} rounds, {refused} refused, {late} late words, {GAME.lost} lost stores")
    if count > ROUNDS:
        log("the writer wrote")
