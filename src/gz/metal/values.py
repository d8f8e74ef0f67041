# SPDX-License-Identifier: Apache-2.0
"""Python values as the 64-bit words that compiled functions take and give, by the types of the language."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

from gz.bits.layout import Layout
from gz.bits.types import (
    AddressType,
    ArrayType,
    BoolType,
    EnumType,
    IntType,
    LayoutType,
    NeverType,
    NoneType,
    PointerType,
    RegisterType,
    TupleType,
    Type,
)
from gz.bits.view import ArrayView, load
from gz.metal.buffer import Buffer

WORD = (1 << 64) - 1


def address_of(value: Any) -> int:
    """Where a struct view, an array view, a buffer or a writable bytes-like object lies."""
    if isinstance(value, Buffer):
        return value.address
    if isinstance(value, Layout):
        memory: Any = value._bytes  # pyright: ignore[reportPrivateUsage]
    elif isinstance(value, ArrayView):
        memory = value.memory
    else:
        memory = value
    if isinstance(memory, int):
        return memory
    return ctypes.addressof(ctypes.c_ubyte.from_buffer(memory))


def view_at(type: Type, address: int) -> Any:
    """A struct or array of this process's memory. Nothing is checked."""
    assert isinstance(type, LayoutType | ArrayType)
    memory = memoryview((ctypes.c_ubyte * type.size).from_address(address)).cast("B")
    return load(memory, 0, type)


def _integer(type: IntType) -> Callable[[Any], int]:
    low, high = type.minimum, type.maximum

    def convert(value: Any) -> int:
        if not low <= value <= high:
            raise OverflowError(f"{value:#x} does not fit {type}")
        return int(value) & WORD

    return convert


def _boolean(value: Any) -> int:
    if value is not True and value is not False:
        raise TypeError(f"{value!r} is no bool")
    return int(value)


def _reference(type: PointerType) -> Callable[[Any], int]:
    def convert(value: Any) -> int:
        if value is None:
            if not type.nullable:
                raise TypeError(f"None is no {type}")
            return 0
        if isinstance(value, Layout) and isinstance(type.target, LayoutType):
            expected: Any = type.target.layout
            if not isinstance(value, expected):
                raise TypeError(f"{value.__class__.__name__} is no {type}")
        return address_of(value)

    return convert


def to_word(type: Type) -> Callable[[Any], int]:
    """Converts an argument of the type to a word. The converter raises OverflowError or TypeError."""
    if isinstance(type, EnumType | RegisterType):
        return _integer(type.base)
    if isinstance(type, IntType):
        return _integer(type)
    if isinstance(type, AddressType):
        return lambda value: int(value) & WORD
    if isinstance(type, BoolType):
        return _boolean
    if isinstance(type, PointerType):
        return _reference(type)
    raise TypeError(f"a {type} cannot be given from Python")


def to_words(types: Sequence[Type]) -> Callable[[Sequence[Any]], list[int]]:
    """Converts a list of arguments; an array parameter is an address and a number of elements."""
    single = [None if isinstance(type, ArrayType) else to_word(type) for type in types]

    def convert(arguments: Sequence[Any]) -> list[int]:
        if len(arguments) != len(single):
            raise TypeError(f"takes {len(single)} values, not {len(arguments)}")
        words: list[int] = []
        for argument, converter in zip(arguments, single, strict=True):
            if converter is not None:
                words.append(converter(argument))
            else:
                words += (address_of(argument), len(argument))
        return words

    return convert


def from_word(type: Type) -> Callable[[int], Any]:
    """Converts a result: an int, bool, enumeration or register, a view of the struct it refers to."""
    if isinstance(type, BoolType):
        return lambda word: word & 1 != 0
    if isinstance(type, IntType):
        return type.wrap if type.signed or type.bits < 64 else lambda word: word
    if isinstance(type, AddressType):
        return lambda word: word
    if isinstance(type, RegisterType):
        register, wrap = type.register, type.base.wrap
        return lambda word: register(wrap(word))
    if isinstance(type, EnumType):
        named, wrap = type.enum._value2member_map_, type.base.wrap
        return lambda word: named.get(wrap(word), wrap(word))
    if isinstance(type, PointerType):
        target = type.target
        return lambda word: view_at(target, word) if word else None
    raise TypeError(f"a {type} cannot be given to Python")


def members(type: Type) -> tuple[Type, ...]:
    """The values that a result consists of: none, one, or a tuple's."""
    if isinstance(type, TupleType):
        return type.elements
    return () if isinstance(type, NoneType | NeverType) else (type,)
