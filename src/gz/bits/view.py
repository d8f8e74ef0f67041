# SPDX-License-Identifier: Apache-2.0
"""Single loads and stores of typed values in a memoryview (struct views under CPython).

An item of a cast memoryview is copied with one access of its width, which a ring shared with another agent needs.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any, cast

from gz.bits.types import (
    ArrayType,
    BoolType,
    EnumType,
    IntType,
    LayoutType,
    PointerType,
    RegisterType,
    Type,
    size_of,
)

_FORMATS = {(8, False): "B", (16, False): "H", (32, False): "I", (64, False): "Q"} | {
    (8, True): "b",
    (16, True): "h",
    (32, True): "i",
    (64, True): "q",
}


def _format(type: Type) -> str:
    if isinstance(type, EnumType | RegisterType):
        type = type.base
    if isinstance(type, IntType):
        return _FORMATS[type.bits, type.signed]
    return "B" if isinstance(type, BoolType) else "Q"


def _words(memory: memoryview, offset: int, type: Type) -> memoryview[int]:
    """The value at `offset` as the one item of a view."""
    whole: Any = memory[offset : offset + size_of(type)]
    return cast("memoryview[int]", whole.cast(_format(type)))


def load(memory: memoryview, offset: int, type: Type) -> Any:
    """The value at `offset`; of structs and arrays a view."""
    if isinstance(type, LayoutType):
        return type.layout._over(memory[offset : offset + type.size])  # pyright: ignore[reportPrivateUsage]
    if isinstance(type, ArrayType):
        return ArrayView(memory[offset : offset + type.size], type)
    value = _words(memory, offset, type)[0]
    if isinstance(type, BoolType):
        return value != 0
    if isinstance(type, RegisterType):
        return type.register(value)
    if isinstance(type, EnumType) and value in type.enum._value2member_map_:
        return type.enum(value)
    return value


def store(memory: memoryview, offset: int, type: Type, value: Any) -> None:
    """Write the value at `offset` with one store. TypeError for structs and arrays."""
    if isinstance(type, LayoutType | ArrayType):
        raise TypeError(f"{type} lies in place: assign to what it contains")
    if isinstance(type, PointerType):
        value = 0 if value is None else address_of(value)
    _words(memory, offset, type)[0] = int(value)


def address_of(value: Any) -> int:
    """Where a view lies in this process; numbers are addresses already."""
    if isinstance(value, int):
        return value
    memory: Any = value.memory if isinstance(value, ArrayView) else getattr(value, "_bytes", value)
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(memory))


class ArrayView:
    """An array in a memoryview; indices are checked, negative ones count from the end."""

    def __init__(self, memory: memoryview, type: ArrayType) -> None:
        self.memory, self._type = memory, type
        self._stride = size_of(type.element)

    def __len__(self) -> int:
        return self._type.count or 0

    def _offset(self, index: int) -> int:
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)}")
        return index % len(self) * self._stride

    def __getitem__(self, index: int) -> Any:
        return load(self.memory, self._offset(index), self._type.element)

    def __setitem__(self, index: int, value: Any) -> None:
        store(self.memory, self._offset(index), self._type.element, value)

    def __iter__(self) -> Iterator[Any]:
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return repr(list(self))
