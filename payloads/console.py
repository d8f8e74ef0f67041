# SPDX-License-Identifier: Apache-2.0
"""Where a payload's text goes: the PL011 of the "virt" machines, or the 8250 that the tree names instead. Both work
there without initialisation."""

from __future__ import annotations

from typing import NoReturn

import gz.core.tree as trees
from gz.arm64.fdt import MAGIC, FdtHeader
from gz.arm64.insn import hvc, smc, wfi
from gz.arm64.pl011 import FR, Pl011
from gz.arm64.psci import Psci
from gz.bits import Struct, Va, Window, at, storage, u8, u32, u64
from gz.metal import address, byte_swap, export, hook, mmio, peek8, unroll, view
from gz.vmm.maps import VIRT

_NEWLINE = 0x0A
_RETURN = 0x0D
_MINUS = 0x2D
_ZERO = 0x30
_NINE = 0x39
_LETTER = 0x61 - 10
_NODE = trees.text("/uart@")
_EMPTY = 1 << 5
_POWERS = tuple(10**n for n in range(19, -1, -1))


class Uart8250Window(Window):
    """The byte registers of a 16550A that sending needs (PC16550D, 8.0)."""

    DATA: u8 = at(0)
    LSR: u8 = at(5)


class Serial(Struct):
    base: Va
    """Of an 8250; 0: it is the PL011."""


serial = storage(Serial)


@export
def find_uart(tree: Va) -> None:
    """Looks for "/uart@<address>" in the structure block: /chosen names the console so."""
    if tree == Va(0):
        return
    header = view(FdtHeader, tree)
    if byte_swap(header.magic) != MAGIC:
        return
    here = tree + byte_swap(header.off_dt_struct)
    end = here + byte_swap(header.size_dt_struct)
    matched: u64 = 0
    base: u64 = 0
    while here < end:
        character = peek8(here)
        here += 1
        if matched < len(_NODE):
            matched = matched + 1 if character == peek8(address(_NODE) + matched) else 0
        elif character == 0:
            serial.base = Va(base)
            return
        else:
            base = base << 4 | (character - _ZERO if character <= _NINE else character - _LETTER)


def put(character: u8) -> None:
    if serial.base != Va(0):
        uart8250 = mmio(Uart8250Window, serial.base)
        while uart8250.LSR & _EMPTY == 0:
            pass
        uart8250.DATA = character
        return
    uart = mmio(Pl011, Va(VIRT.uart))
    while FR(uart.FR).TXFF == 1:
        pass
    uart.DR = character


@hook("text")
def write_text(text: Va, length: u64) -> None:
    for i in range(length):
        character = peek8(text + i)
        if character == _NEWLINE:
            put(_RETURN)
        put(character)


@hook("number")
def write_number(value: u64, base: u32, signed: bool) -> None:
    """A number to base 10, or 16. The divisors are constants: a check that failed here would have
    no way to say so."""
    if base == 16:
        for shift in unroll(range(60, -4, -4)):
            if value >> shift != 0 or shift == 0:
                put_digit(u8(value >> shift & 15))
        return
    rest = value
    if signed and value >> 63 == 1:
        put(_MINUS)
        rest = 0 - value
    for power in unroll(_POWERS):
        if rest >= power or power == 1:
            put_digit(u8(rest // power % 10))


def put_digit(digit: u8) -> None:
    put(digit + (_ZERO if digit < 10 else _LETTER))


@hook("panic")
def stop() -> NoReturn:
    put(_NEWLINE)
    power_off()


@export
def power_off() -> NoReturn:
    """By HVC, as guests and the bare machine have it; by SMC where HVC is not the conduit, as for a host."""
    hvc(Psci.SYSTEM_OFF)
    smc(Psci.SYSTEM_OFF)
    while True:
        wfi()
