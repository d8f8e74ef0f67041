# SPDX-License-Identifier: Apache-2.0
"""Where a payload's text goes: the PL011 of the "virt" machines, which works there without initialisation."""

from __future__ import annotations

from typing import NoReturn

from gz.arm64.insn import hvc, wfi
from gz.arm64.pl011 import FR, Pl011
from gz.arm64.psci import Psci
from gz.bits import Va, u8, u32, u64
from gz.metal import export, hook, mmio, peek8
from gz.vmm.maps import VIRT


def put(character: u8) -> None:
    uart = mmio(Pl011, Va(VIRT.uart))
    while FR(uart.FR).TXFF == 1:
        pass
    uart.DR = character


@hook("text")
def write_text(text: Va, length: u64) -> None:
    for i in range(length):
        put(peek8(text + i))


@hook("number")
def write_number(value: u64, base: u32, signed: bool) -> None:
    """Digits without leading zeros; base 2 to 16."""
    rest = value
    if signed and value >> 63 == 1:
        put(0x2D)
        rest = 0 - value
    power: u64 = 1
    while rest // power >= base:
        power = power * base
    while power > 0:
        digit = u8(rest // power % base)
        put(digit + (0x30 if digit < 10 else 0x57))
        power = power // base


@hook("panic")
def stop() -> NoReturn:
    put(0x0A)
    power_off()


@export
def power_off() -> NoReturn:
    hvc(Psci.SYSTEM_OFF)
    while True:
        wfi()
