# SPDX-License-Identifier: Apache-2.0
"""Spelling of types, names and bytes in LLVM IR."""

from __future__ import annotations

import functools
import re

from gz.bits.types import (
    NEVER,
    NONE,
    AddressType,
    ArrayType,
    BoolType,
    EnumType,
    IntType,
    PointerType,
    RegisterType,
    TupleType,
    Type,
    align_of,
)

_PLAIN = re.compile(r"[-a-zA-Z$._][-a-zA-Z$._0-9]*")


def symbol(name: str) -> str:
    """A global name, in quotes if LLVM needs them."""
    return f"@{name}" if _PLAIN.fullmatch(name) else f'@"{name}"'


@functools.cache
def value_type(type: Type) -> str:
    """How a value of the type is held in registers."""
    if isinstance(type, IntType):
        return f"i{type.bits}"
    if isinstance(type, EnumType | RegisterType):
        return f"i{type.base.bits}"
    if isinstance(type, BoolType):
        return "i1"
    if isinstance(type, AddressType):
        return "i64"
    if isinstance(type, PointerType):
        return "ptr"
    if isinstance(type, ArrayType):
        return "{ptr, i64}"
    if isinstance(type, TupleType):
        return "{" + ", ".join(map(value_type, type.elements)) + "}"
    assert type is NONE or type is NEVER, type
    return "void"


def memory_type(type: Type) -> str:
    """How a value of the type lies in memory."""
    return "i8" if isinstance(type, BoolType) else value_type(type)


def alignment(type: Type) -> int:
    """Of a local variable."""
    return 8 if isinstance(type, ArrayType | TupleType | PointerType) else align_of(type)


def is_signed(type: Type) -> bool:
    """Do comparisons and extensions look at the sign?"""
    base = type.base if isinstance(type, EnumType | RegisterType) else type
    return isinstance(base, IntType) and base.signed


def width(type: Type) -> int:
    """Bits of a scalar."""
    if isinstance(type, EnumType | RegisterType):
        return type.base.bits
    if isinstance(type, BoolType):
        return 1
    return type.bits if isinstance(type, IntType) else 64


def byte_string(content: bytes) -> str:
    """A constant of bytes."""
    shown = "".join(chr(b) if 32 <= b < 127 and b not in (34, 92) else f"\\{b:02X}" for b in content)
    return f'c"{shown}"'
