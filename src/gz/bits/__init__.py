# SPDX-License-Identifier: Apache-2.0
"""The vocabulary of declarations: integers of fixed width, structs, registers, tables. It knows no hardware."""

from __future__ import annotations

from gz.bits.enumeration import enumeration
from gz.bits.integers import Ipa, Pa, Va, i8, i16, i32, i64, u8, u16, u32, u64
from gz.bits.layout import Array, Held, Ptr, ReadOnly, Struct, Window, array, at, sizeof, union
from gz.bits.register import Register, field
from gz.bits.storage import function_table, storage, table
from gz.bits.sysreg import SysReg

__all__ = [
    "Array",
    "Held",
    "Ipa",
    "Pa",
    "Ptr",
    "ReadOnly",
    "Register",
    "Struct",
    "SysReg",
    "Va",
    "Window",
    "array",
    "at",
    "enumeration",
    "field",
    "function_table",
    "i8",
    "i16",
    "i32",
    "i64",
    "sizeof",
    "storage",
    "table",
    "u8",
    "u16",
    "u32",
    "u64",
    "union",
]
