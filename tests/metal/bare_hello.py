# SPDX-License-Identifier: Apache-2.0
"""The smallest whole program: entered at EL2 without an MMU, it prints on QEMU virt's PL011 and powers off."""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

from gz.arm64.insn import smc
from gz.arm64.sysreg import sysreg
from gz.bits import Array, Struct, Va, Window, array, at, function_table, storage, table, u8, u32, u64
from gz.metal import assembly, export, hook, log, mmio, panic, peek8, trap

UART = Va(0x0900_0000)
PSCI_SYSTEM_OFF = 0x8400_0008


class Pl011(Window):
    DR: u32 = at(0)


class Notes(Struct):
    count: u32
    squares: Array[u64] = array(8)


NOTES = storage(Notes)
PRIMES = table(u8, [2, 3, 5, 7, 11, 13, 17, 19])

assembly(
    """
    .section .head.text, "ax"
    .global _start
_start:
    b enter
    nop
    .quad 0, __image_size, 0xa, 0, 0, 0
    .ascii "ARM\\x64"
    .long 0
enter:
    adrp x0, __stacks_start
    add x0, x0, #0x5000
    mov sp, x0
    mov x29, xzr
    bl start
"""
)


@hook("text")
def write(text: Va, length: u64) -> None:
    uart = mmio(Pl011, UART)
    for i in range(length):
        uart.DR = peek8(text + i)


@hook("number")
def write_number(value: u64, base: u32, signed: bool) -> None:
    uart = mmio(Pl011, UART)
    if signed and value >> 63 != 0:
        uart.DR = 0x2D
        value = ~value + 1
    digits = 1
    power: u64 = 1
    while value // power >= base:
        power *= base
        digits += 1
    while digits != 0:
        digit = u32(value // power % base)
        uart.DR = digit + (0x30 if digit < 10 else 0x57)
        power //= base
        digits -= 1


@hook("panic")
def stop() -> NoReturn:
    smc(PSCI_SYSTEM_OFF)
    trap()


Step = Callable[[u64], u64]


def square(x: u64) -> u64:
    return x * x


def triple(x: u64) -> u64:
    return 3 * x


STEPS = function_table(Step, [square, triple])


def fill(notes: Notes, step: u64) -> u64:
    """The results of one step for all primes, and their sum."""
    total: u64 = 0
    for i in range(len(PRIMES)):
        notes.squares[i] = STEPS[step](PRIMES[i])
        notes.count += 1
        total += notes.squares[i]
    return total


@export
def start() -> None:
    log(f"el{sysreg.CurrentEL >> 2} says hello")
    log(f"squares {fill(NOTES, 0)}, triples {fill(NOTES, 1)}, count {NOTES.count}")
    fill(NOTES, u64(NOTES.count) // 8)
    panic("not reached")
