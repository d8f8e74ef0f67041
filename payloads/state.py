# SPDX-License-Identifier: Apache-2.0
"""What only lazily changes hands on a CPU: a host and two guests fill it with patterns of their own, and each looks
whether it finds its own again, and before the first time nothing of the others' (C4).

Each round is another CPU's.

Vectors (SVE's with predicates, FFR and each its own length where there is SVE), keys of pointer authentication and what
they sign, TPIDR2_EL0. Prints how many words the host found wrong, and how many each of the guests.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call, VcpuTuple
from gz.abi.exits import ExitReason
from gz.abi.memory import BLOCK_PAGES, BLOCK_SIZE, REGION_BUFFER_SIZE, Constituent, MemoryRegion
from gz.abi.registers import BOOT_PSTATE, PC, PSTATE, X0
from gz.abi.run import PAGE_SIZE, RunPage
from gz.arm64.features import ID_AA64ISAR1_EL1, ID_AA64PFR0_EL1, ID_AA64PFR1_EL1
from gz.arm64.insn import hvc, isb, read, write
from gz.arm64.registers import CPACR_EL1
from gz.arm64.sysreg import sysreg
from gz.bits import Array, Struct, Va, Window, array, at, storage, u8, u32, u64
from gz.core.context import KEY_REGISTERS
from gz.metal import address, assembly, export, extern, log, mmio, panic, peek64, poke8, poke64, unroll, view
from gz.vmm.maps import VIRT
from payloads import cores, exceptions, initrd, interrupts, start  # noqa: F401 - parts of every payload
from payloads.host_call import call, declare

GUESTS = 2
ROUNDS = 8
#: RAM that nothing else uses, with 512 MiB in the machine: a block for each guest.
MEMORY = 0x5800_0000
_WORD = 8
_VECTORS = 32
_MIX = 0x9E37_79B9_7F4A_7C15
_SEED = 0x100  # offset of a guest's x0 from the end of its block, times its number: there are zeros, and no tree
_SIZE_MAX = 34 * 256


def _moves(store: bool) -> str:
    move = "str" if store else "ldr"
    z = "".join(f"    {move} z{n}, [x0, #{n}, mul vl]\n" for n in range(_VECTORS))
    p = "".join(f"    {move} p{n}, [x1, #{n}, mul vl]\n" for n in range(16))
    there = "    addvl x1, x0, #31\n    addvl x1, x1, #1\n"
    if store:
        return f"{z}{there}{p}    rdffr p0.b\n    str p0, [x1, #16, mul vl]\n    ldr p0, [x1]\n"
    return f"{z}{there}    ldr p0, [x1, #16, mul vl]\n    wrffr p0.b\n{p}"


def _function(name: str, body: str) -> str:
    return f"    .global {name}\n    .type {name}, %function\n{name}:\n{body}    ret\n"


assembly(
    '    .arch_extension sve\n    .arch_extension pauth\n    .section .text.state, "ax"\n'
    + _function("get_scalable", _moves(True))
    + _function("put_scalable", _moves(False))
    + _function("get_vectors", "".join(f"    stp q{n}, q{n + 1}, [x0, #{16 * n}]\n" for n in range(0, _VECTORS, 2)))
    + _function("put_vectors", "".join(f"    ldp q{n}, q{n + 1}, [x0, #{16 * n}]\n" for n in range(0, _VECTORS, 2)))
    + _function("vector_length", "    rdvl x0, #1\n")
    + _function("sign", "    pacga x0, x0, x1\n")
)


@extern
def get_scalable(buffer: Va) -> None: ...


@extern
def put_scalable(buffer: Va) -> None: ...


@extern
def get_vectors(buffer: Va) -> None: ...


@extern
def put_vectors(buffer: Va) -> None: ...


@extern
def vector_length() -> u64: ...


@extern
def sign(value: u64, modifier: u64) -> u64: ...


class Desk(Window):
    WRONG: u32 = at(0)
    """A guest tells how many words were wrong."""


class Mine(Struct, align=64):
    """What this world has."""

    scalable: u32
    keys: u32
    streaming: u32
    length: u64  # of its vectors, bytes
    signature: u64
    wrong: u32
    buffer: Array[u8] = array(_SIZE_MAX)


class Pages(Struct, align=PAGE_SIZE):
    run: Array[u8] = array(GUESTS * 2 * PAGE_SIZE)
    region: Array[u8] = array(REGION_BUFFER_SIZE)


class Game(Struct):
    """What the host keeps."""

    vcpus: Array[u64] = array(GUESTS)
    wrong: Array[u32] = array(GUESTS)


MINE = storage(Mine)
GAME = storage(Game)
PAGES = storage(Pages)


# Every world.


def begin(number: u64) -> None:
    """Host 0 and guests 1, 2 have vectors of different lengths where the CPU can."""
    sysreg.CPACR_EL1 = CPACR_EL1(FPEN=3, ZEN=3)
    isb()
    MINE.scalable = u32(ID_AA64PFR0_EL1(sysreg.ID_AA64PFR0_EL1).SVE)
    MINE.keys = u32(ID_AA64ISAR1_EL1(sysreg.ID_AA64ISAR1_EL1).APA | ID_AA64ISAR1_EL1(sysreg.ID_AA64ISAR1_EL1).API)
    MINE.streaming = u32(ID_AA64PFR1_EL1(sysreg.ID_AA64PFR1_EL1).SME)
    MINE.length = 16
    if MINE.scalable != 0:
        sysreg.ZCR_EL1 = 15 - 7 * number
        isb()
        MINE.length = vector_length()


def size() -> u64:
    """Bytes of its vectors, without FFR."""
    vectors = _VECTORS * MINE.length
    return vectors + 2 * MINE.length if MINE.scalable != 0 else vectors


def pattern(seed: u64, index: u64) -> u64:
    """Seed 0: nothing."""
    return (seed * _MIX) ^ (seed * index * (_MIX >> 7))


def fill(seed: u64) -> None:
    buffer = address(MINE.buffer)
    for i in range(size() // _WORD):
        poke64(buffer + _WORD * i, pattern(seed, i))
    if MINE.scalable != 0:
        for i in range(MINE.length // 8):  # FFR: so many first ones
            poke8(buffer + size() + i, 0xFF if i < seed % 2 else 0)
        put_scalable(buffer)
    else:
        put_vectors(buffer)
    if MINE.keys != 0:
        for k, register in unroll(tuple(enumerate(KEY_REGISTERS))):
            write(register, pattern(seed, 1000 + k))
        isb()
        MINE.signature = sign(seed, 1)
    if MINE.streaming != 0:
        sysreg.TPIDR2_EL0 = pattern(seed, 2000)


def check(seed: u64) -> None:
    if MINE.keys != 0 and seed != 0:  # before the registers are read: it is the instruction that brings them
        expect(sign(seed, 1), MINE.signature)
    buffer = address(MINE.buffer)
    if MINE.scalable != 0:
        expect(vector_length(), MINE.length)
        get_scalable(buffer)
        expect(peek64(buffer + size()) & 0xFF, 0xFF if seed % 2 != 0 else 0)
    else:
        get_vectors(buffer)
    for i in range(size() // _WORD):
        expect(peek64(buffer + _WORD * i), pattern(seed, i))
    if MINE.keys != 0:
        for k, register in unroll(tuple(enumerate(KEY_REGISTERS))):
            expect(read(register), pattern(seed, 1000 + k))
    if MINE.streaming != 0:
        expect(sysreg.TPIDR2_EL0, pattern(seed, 2000))


def expect(value: u64, wanted: u64) -> None:
    if value != wanted:
        MINE.wrong += 1


# A guest.


def guest(number: u64) -> None:
    begin(number)
    exceptions.expect()
    desk = mmio(Desk, Va(VIRT.rtc))
    seed: u64 = 0
    while True:
        check(seed)
        secret = sysreg.TPIDR2_EL0
        if exceptions.taken() == 0:  # hidden, but nothing traps it: then it is its own
            expect(secret, seed)
            sysreg.TPIDR2_EL0 = seed + GUESTS
        seed += GUESTS
        fill(seed)
        desk.WRONG = MINE.wrong


# The host.


def create(number: u64, image: u64, length: u64) -> u64:
    """The vCPU of a guest with one block of memory: the same program."""
    memory = MEMORY + number * BLOCK_SIZE
    for offset in range(0, BLOCK_SIZE, _WORD):
        poke64(Va(memory + offset), peek64(Va(image + offset)) if offset < length else 0)
    vm = call(Call.CREATE_VM, 0, 0, 0, 0, 0)
    declare(vm, address(PAGES.region), VIRT.ram, BLOCK_SIZE)
    region = view(MemoryRegion, address(PAGES.region))
    region.constituent_count = 1
    only = view(Constituent, address(PAGES.region) + MemoryRegion.size)
    only.address = memory
    only.page_count = BLOCK_PAGES
    call(Call.SET_MEMREGION, vm, REGION_BUFFER_SIZE, u64(address(PAGES.region)), 0, 0)
    vcpu = VcpuTuple(VMID=u32(vm), VCPU=0)
    call(Call.CREATE_VCPU, vcpu, run_page(number), 0, 0, 0)
    call(Call.SET_ONE_REG, vcpu, PSTATE, BOOT_PSTATE, 0, 0)
    call(Call.SET_ONE_REG, vcpu, PC, VIRT.ram, 0, 0)
    call(Call.SET_ONE_REG, vcpu, X0, VIRT.ram + BLOCK_SIZE - _SEED * (number + 1), 0, 0)
    return vcpu


def run_page(number: u64) -> u64:
    return u64(address(PAGES.run)) + number * 2 * PAGE_SIZE


def run(number: u64, vcpu: u64) -> u32:
    """Until it tells how many words were wrong."""
    page = view(RunPage, Va(run_page(number)))
    while True:
        _, reason, _, _ = hvc(SMC64_BASE + Call.RUN, vcpu)
        if reason == ExitReason.MMIO:
            if page.mmio.phys_addr != VIRT.rtc:
                panic(f"guest {number} went to {page.mmio.phys_addr:#x}\n")
            return u32(page.mmio.data)
        if reason != ExitReason.IRQ and reason != ExitReason.GZ:
            panic(f"RUN came back with {reason:#x}\n")


@export
def job(cpu: u64, number: u64) -> u64:
    """A round."""
    begin(0)
    fill(101 + number)
    for i in range(GUESTS):
        GAME.wrong[i] = run(i, GAME.vcpus[i])
        check(101 + number)
    return 0


@export
def payload(tree: Va) -> None:
    number = (VIRT.ram + BLOCK_SIZE - u64(tree)) // _SEED
    if number == 1 or number == GUESTS:
        guest(number)
    image, length = initrd.find(tree)
    first = create(0, image, length)
    second = create(1, image, length)
    GAME.vcpus[0] = first
    GAME.vcpus[1] = second
    count = cores.count()
    for cpu in range(1, count):
        if not cores.switch_on(cpu):
            panic("a CPU does not start\n")
    for i in range(ROUNDS):
        if i % count == 0:
            job(0, i)
        elif cores.run(i % count, i) != 0:
            panic("a CPU does not come back\n")
    log(f"{MINE.scalable} scalable, {MINE.keys} keys, {MINE.streaming} streaming, {MINE.length} bytes")
    log(f"{MINE.wrong} host, {GAME.wrong[0]} first, {GAME.wrong[1]} second")
