# SPDX-License-Identifier: Apache-2.0
"""A guest whose CPUs but the first spin with exclusives and atomics on the memory that EL2 touches for the guest: the
records of stolen time, and a page that is given back, wiped and supplied anew (H9).

The first one makes the calls, and tells how often, the longest of each in ticks, and whether the others got anywhere.
"""

from __future__ import annotations

from gz.abi.guest import VendorCall
from gz.abi.run import PAGE_SIZE
from gz.arm64.descriptors import BLOCK, GIGABYTE_SHIFT, MairIndex, Shareability, Stage1
from gz.arm64.insn import dsb, hvc, isb
from gz.arm64.smccc import ParavirtTime
from gz.arm64.sysreg import sysreg
from gz.bits import Struct, Va, storage, u64
from gz.metal import assembly, export, extern, load_acquire, log, panic, poke64, store_release
from gz.vmm.maps import VIRT
from payloads import cores, exceptions, interrupts, start  # noqa: F401 - parts of every payload

ROUNDS = 40
PAGE = VIRT.ram + (8 << 20) + 5 * PAGE_SIZE
_LIMIT = 20_000_000  # microseconds
_TIMES = 64  # between two looks whether it is over
_ALIAS = 256 << GIGABYTE_SHIFT  # where the last gigabyte of a guest's addresses is mapped
_NORMAL = Stage1(BLOCK, AttrIndx=MairIndex.NORMAL, SH=Shareability.INNER, AF=1, XN=1)

# A word of the page that is given back in x0, of the records in x1, which a guest can only read; how often in x2.
assembly(
    """
    .arch_extension lse
    .section .text.exclusives, "ax"
    .global hammer
    .type hammer, %function
hammer:
    mov x3, #0
1:  ldxr x4, [x1]
    clrex
    ldaxr x4, [x0]
    add x4, x4, #1
    stlxr w5, x4, [x0]
    cbnz w5, 2f
    add x3, x3, #1
2:  casal x4, x3, [x0]
    ldaddal x4, x4, [x0]
    ldxr x4, [x1]
    sub x2, x2, #1
    cbnz x2, 1b
    mov x0, x3
    ret
"""
)


@extern
def hammer(page: Va, record: Va, times: u64) -> u64: ...


class Game(Struct):
    record: Va
    over: u64


GAME = storage(Game)


def map_record(at: u64) -> Va:
    """Behind what the identity map reaches."""
    table = sysreg.TTBR0_EL1 & ~u64(PAGE_SIZE - 1)
    poke64(Va(table + 8 * (_ALIAS >> GIGABYTE_SHIFT)), _NORMAL | at >> GIGABYTE_SHIFT << GIGABYTE_SHIFT)
    dsb("ishst")
    isb()
    return Va(_ALIAS + (at & (1 << GIGABYTE_SHIFT) - 1))


@export
def job(cpu: u64, number: u64) -> u64:
    """The stores that went through."""
    through: u64 = 0
    while load_acquire(GAME.over) == 0:
        through += hammer(Va(PAGE), GAME.record, _TIMES)
    return through


def ticks() -> u64:
    isb()
    return sysreg.CNTVCT_EL0


@export
def payload(tree: Va) -> None:
    record, _, _, _ = hvc(ParavirtTime.STOLEN_TIME, 0, 0, 0)
    GAME.record = map_record(record)
    poke64(Va(PAGE), 0)
    count = cores.count()
    for cpu in range(1, count):
        if not cores.switch_on(cpu):
            panic("a CPU does not start\n")
        cores.ask(cpu, 0)
    given: u64 = 0
    relinquishing: u64 = 0
    recording: u64 = 0
    end = cores.deadline(_LIMIT)
    while given < ROUNDS and not cores.passed(end):
        if count == 1:
            hammer(Va(PAGE), GAME.record, _TIMES)
        begin = ticks()
        status, _, _, _ = hvc(VendorCall.MEM_RELINQUISH, PAGE, 0, 0)
        relinquishing = max(relinquishing, ticks() - begin)
        given += 1 if status == 0 else 0  # else nobody has touched it yet since the last time
        begin = ticks()
        hvc(ParavirtTime.STOLEN_TIME, 0, 0, 0)
        recording = max(recording, ticks() - begin)
    store_release(GAME.over, 1)
    spinning: u64 = 0
    for cpu in range(1, count):
        while not cores.is_done(cpu):
            pass
        spinning += 1 if cores.result(cpu) != 0 else 0
    log(f"{given} given back, {spinning} spinning, {relinquishing} ticks to give back, {recording} ticks to record")
