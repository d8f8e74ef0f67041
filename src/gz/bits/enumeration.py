# SPDX-License-Identifier: Apache-2.0
"""The integer type that holds an enumeration."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any, TypeVar

from gz.bits.integers import u64
from gz.bits.types import EnumType, IntType

E = TypeVar("E", bound=type[IntEnum])

_BASES: dict[type[IntEnum], IntType] = {}


def enumeration(base: Any) -> Callable[[E], E]:
    """Values of the decorated IntEnum are held in `base` (u8 … i64)."""
    if not isinstance(base, IntType):
        raise TypeError("@enumeration takes an integer type, as in @enumeration(u32)")

    def declare(enum: E) -> E:
        _BASES[enum] = base
        enum_type(enum)
        return enum

    return declare


def enum_type(enum: type[IntEnum]) -> EnumType:
    """The type of an enumeration; TypeError if a member does not fit."""
    base: Any = _BASES.get(enum, u64)
    for member in enum:
        if not base.minimum <= member.value <= base.maximum:
            raise TypeError(f"{enum.__name__}.{member.name} = {member.value:#x} does not fit {base}")
    return EnumType(enum, base)
