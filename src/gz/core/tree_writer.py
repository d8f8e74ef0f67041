# SPDX-License-Identifier: Apache-2.0
"""Writing a flattened device tree: the tokens of the structure block, in order (Devicetree Specification 0.4, 5.4)."""

from __future__ import annotations

from gz.arm64.fdt import LAST_COMPATIBLE_VERSION, MAGIC, VERSION, FdtHeader, FdtToken
from gz.bits import ReadOnly, Struct, Va, storage, table, u8, u32, u64
from gz.core.memory import memcpy
from gz.metal import address, byte_swap, count_leading_zeros, poke8, poke32, view

_DIGITS = table(u8, list(b"0123456789abcdef"))


class Output(Struct):
    start: Va  # of the structure block
    size: u64
    names: u64  # where in the strings block the offsets that `property` takes begin


output = storage(Output)


def open(start: Va, names: u64) -> None:
    """A structure block at `start`, 4-byte aligned."""
    output.start = start
    output.size = 0
    output.names = names


def header(to: Va, reservations: u64, structure: u64, strings: u64, strings_size: u64, boot_cpu: u32) -> u64:
    """The blob's head, when all else is there; its size. Offsets and sizes in bytes, `boot_cpu` as it is in a head."""
    size = (strings + strings_size + 7) & ~7
    head = view(FdtHeader, to)
    head.magic = byte_swap(u32(MAGIC))
    head.totalsize = byte_swap(u32(size))
    head.off_dt_struct = byte_swap(u32(structure))
    head.off_dt_strings = byte_swap(u32(strings))
    head.off_mem_rsvmap = byte_swap(u32(reservations))
    head.version = byte_swap(u32(VERSION))
    head.last_comp_version = byte_swap(u32(LAST_COMPATIBLE_VERSION))
    head.boot_cpuid_phys = boot_cpu
    head.size_dt_strings = byte_swap(u32(strings_size))
    head.size_dt_struct = byte_swap(u32(output.size))
    return size


def begin(name: ReadOnly[u8]) -> None:
    token(FdtToken.BEGIN_NODE)
    data(address(name), len(name))
    byte(0)
    pad()


def property(name: u64, length: u64) -> None:
    """The head of a property; `name`: offset among the strings from `names` on."""
    token(FdtToken.PROP)
    word(u32(length))
    word(u32(output.names + name))


def number(value: u64, cells: u32) -> None:
    if cells == 2:
        word(u32(value >> 32))
    word(u32(value))


def hexadecimal(value: u64) -> None:
    digits = max((67 - count_leading_zeros(value)) // 4, 1)
    while digits != 0:
        digits -= 1
        byte(_DIGITS[(value >> (4 * digits)) & 0xF])


def token(kind: FdtToken) -> None:
    word(u32(kind))


def word(value: u32) -> None:
    poke32(output.start + output.size, byte_swap(value))
    output.size += 4


def byte(value: u8) -> None:
    poke8(output.start + output.size, value)
    output.size += 1


def data(from_: Va, size: u64) -> None:
    memcpy(output.start + output.size, from_, size)
    output.size += size


def pad() -> None:
    while output.size & 3 != 0:
        byte(0)
