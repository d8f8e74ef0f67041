# SPDX-License-Identifier: Apache-2.0
"""The names of the integer and address types.

For editors they are `int`; the compiler knows the widths. At run time they are callables that truncate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gz.bits.types import AddressType, IntType

if TYPE_CHECKING:
    u8 = int
    u16 = int
    u32 = int
    u64 = int
    i8 = int
    i16 = int
    i32 = int
    i64 = int
    Va = int
    Pa = int
    Ipa = int
else:
    u8 = IntType("u8", 8, False)
    u16 = IntType("u16", 16, False)
    u32 = IntType("u32", 32, False)
    u64 = IntType("u64", 64, False)
    i8 = IntType("i8", 8, True)
    i16 = IntType("i16", 16, True)
    i32 = IntType("i32", 32, True)
    i64 = IntType("i64", 64, True)
    Va = AddressType("Va")
    Pa = AddressType("Pa")
    Ipa = AddressType("Ipa")
