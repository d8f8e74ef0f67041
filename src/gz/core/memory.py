# SPDX-License-Identifier: Apache-2.0
"""Physical memory as the core sees it: two linear windows, and the functions that work on stretches of it.

The compiler calls `memcpy`, `memmove`, `memset` and `memcmp` for copies of structs.
"""

from __future__ import annotations

from gz.arm64.insn import dc, dsb
from gz.bits import Pa, Va, i32, u8, u64
from gz.core.platform import machine, overlaps
from gz.metal import export, inline, peek8, peek64, poke8, poke64, unroll

#: Bits of physical address that the windows span.
WINDOW_BITS = 46
#: RAM the core may touch: normal memory, write-back.
RAM_WINDOW = 1 << WINDOW_BITS
#: Devices the core drives: nGnRE.
DEVICE_WINDOW = 2 << WINDOW_BITS

PAGE_SIZE = 4096
_UNROLLED = 8  # words per turn of a loop
_LINES = 32


@inline
def va(physical: Pa) -> Va:
    """Where RAM is seen. The core's own image is not in the window."""
    return Va(u64(physical) + RAM_WINDOW)


@inline
def pa(virtual: Va) -> Pa:
    """The inverse of `va`."""
    return Pa(u64(virtual) - RAM_WINDOW)


def in_ram(base: Pa, size: u64) -> bool:
    """All of it lies in one bank of RAM, whoever owns it."""
    for i in range(machine.ram_count):
        bank = machine.ram[i]
        if base >= bank.base and size <= bank.size and base - bank.base <= bank.size - size:
            return True
    return False


def is_ram(base: Pa, size: u64) -> bool:
    """RAM that the tree gives to the host: in one bank and none of it the core's."""
    if not in_ram(base, size):
        return False
    image = machine.image
    pool = machine.pool
    return not overlaps(base, size, image.base, image.size) and not overlaps(base, size, pool.base, pool.size)


def zero(base: Pa, size: u64) -> None:
    """Clear; base and size are multiples of the page."""
    at = va(base)
    end = at + size
    block = machine.zero_block
    if block != 0:
        while end - at >= _UNROLLED * block and at < end:
            for _ in unroll(range(_UNROLLED)):
                dc("zva", at)
                at = at + block
        while at < end:
            dc("zva", at)
            at = at + block
        return
    while at < end:
        for i in unroll(range(_UNROLLED)):
            poke64(at + 8 * i, 0)
        at = at + 8 * _UNROLLED


def copy(to: Va, from_: Va, size: u64) -> None:
    """Stretches that do not overlap, at any alignment."""
    memcpy(to, from_, size)


def clean(base: Pa, size: u64) -> None:
    """Clean and invalidate to the point of coherency, as for a reader whose caches are off."""
    line = machine.cache_line
    at = Va(u64(va(base)) & ~(line - 1))
    end = va(base) + size
    while end - at >= _LINES * line and at < end:
        for _ in unroll(range(_LINES)):
            dc("civac", at)
            at = at + line
    while at < end:
        dc("civac", at)
        at = at + line
    dsb("sy")


@export
def memcpy(to: Va, from_: Va, size: u64) -> Va:
    done: u64 = 0
    if (u64(to) | u64(from_)) & 7 == 0:
        while size - done >= 8 * _UNROLLED:
            for i in unroll(range(_UNROLLED)):
                poke64(to + done + 8 * i, peek64(from_ + done + 8 * i))
            done += 8 * _UNROLLED
        while size - done >= 8:
            poke64(to + done, peek64(from_ + done))
            done += 8
    while done < size:
        poke8(to + done, peek8(from_ + done))
        done += 1
    return to


@export
def memmove(to: Va, from_: Va, size: u64) -> Va:
    if to <= from_ or to >= from_ + size:
        return memcpy(to, from_, size)
    left = size
    while left != 0:
        left -= 1
        poke8(to + left, peek8(from_ + left))
    return to


@export
def memset(to: Va, value: i32, size: u64) -> Va:
    byte = u8(value)
    word = u64(byte) * 0x0101_0101_0101_0101
    done: u64 = 0
    if u64(to) & 7 == 0:
        while size - done >= 8:
            poke64(to + done, word)
            done += 8
    while done < size:
        poke8(to + done, byte)
        done += 1
    return to


@export
def memcmp(a: Va, b: Va, size: u64) -> i32:
    for i in range(size):
        x = peek8(a + i)
        y = peek8(b + i)
        if x != y:
            return i32(x) - i32(y)
    return 0
