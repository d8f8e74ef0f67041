# SPDX-License-Identifier: Apache-2.0
"""Output on the PL011 that the tree names, polled: where log and panic texts go.

The UART is the host's; the core writes at boot and when it dies.
"""

from __future__ import annotations

from gz.arm64.pl011 import FR, Pl011
from gz.arm64.registers import MPIDR_AFFINITY
from gz.arm64.sysreg import sysreg
from gz.bits import Struct, Va, storage, u8, u32, u64
from gz.metal import compare_exchange, hook, inline, mmio, noinline, peek8, read_once, store_release

_NEWLINE = 0x0A
_RETURN = 0x0D
_MINUS = 0x2D
_ZERO = 0x30
_LETTER = 0x61 - 10
_TEN_DIGITS = 10**10
#: Turns that a CPU waits for another one's line to end; that one may have died in the middle of it.
_PATIENCE = 10_000_000
#: The same for room for a byte: one leaves after 87 us at 115,200 bits a second, or never, if the UART is off.
_FULL = 100_000


class Console(Struct):
    uart: Va  # 0: none, text is lost
    shared: u32  # several CPUs may write: lines are taken turns for
    owner: u64  # the CPU whose line is being written: affinity + 1


console = storage(Console)


def open(uart: Va) -> None:
    console.uart = uart


def share() -> None:
    """The MMU is on: from now on exclusives work."""
    console.shared = 1


@hook("text")
@noinline
def write(text: Va, length: u64) -> None:
    """Bytes; the line's end lets other CPUs write again."""
    if console.uart == Va(0):
        return
    _claim()
    for i in range(length):
        byte = peek8(text + i)
        if byte == _NEWLINE:
            _put(_RETURN)
            _put(_NEWLINE)
            if console.shared != 0:
                store_release(console.owner, 0)
        else:
            _put(byte)


@hook("number")
@noinline
def write_number(value: u64, base: u32, signed: bool) -> None:
    """A number without prefix. Nothing here can fail a check: checks end here."""
    if console.uart == Va(0):
        return
    _claim()
    if base == 16:
        _digits(value, 4, 1)
    elif base == 2:
        _digits(value, 1, 1)
    else:
        rest = value
        if signed and value >> 63 != 0:
            _put(_MINUS)
            rest = 0 - value
        if rest >= _TEN_DIGITS:
            _digits(_packed(rest // _TEN_DIGITS), 4, 1)
            _digits(_packed(rest % _TEN_DIGITS), 4, 10)
        else:
            _digits(_packed(rest), 4, 1)


def _packed(value: u64) -> u64:
    """Up to ten decimal digits, four bits each."""
    digits: u64 = 0
    rest = value
    shift: u64 = 0
    while rest != 0:
        digits |= rest % 10 << shift
        rest //= 10
        shift += 4
    return digits


def _digits(value: u64, width: u64, least: u64) -> None:
    """Digits of `width` bits each, at least so many."""
    shift: u64 = 64
    started = False
    while shift != 0:
        shift -= width
        digit = value >> shift & ((1 << width) - 1)
        started = started or digit != 0 or shift < least * width
        if started:
            _put(u8(digit + (_ZERO if digit < 10 else _LETTER)))


@inline
def _put(byte: u8) -> None:
    uart = mmio(Pl011, console.uart)
    for _ in range(_FULL):
        if FR(uart.FR).TXFF == 0:
            break
    uart.DR = u32(byte)


def _claim() -> None:
    """The line is this CPU's from its first byte on."""
    if console.shared == 0:
        return
    me = (sysreg.MPIDR_EL1 & MPIDR_AFFINITY) + 1
    if read_once(console.owner) == me:
        return
    for _ in range(_PATIENCE):
        if compare_exchange(console.owner, 0, me) == 0:
            return
    store_release(console.owner, me)
