# SPDX-License-Identifier: Apache-2.0
"""What metal's operations mean, in exact integers; the names that generated models use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from generator import TABLE, TYPES

FIELDS = {"TOP": (31, 31), "HIGH": (30, 24), "MID": (20, 5), "LOW": (0, 0)}


class Failed(Exception):
    """A check of the language failed."""


def cut(kind: str, number: int) -> int:
    bits, signed = TYPES[kind]
    number = int(number) % (1 << bits)
    return number - (1 << bits) if signed and number >> (bits - 1) else number


def left(kind: str, number: int, amount: int) -> int:
    return 0 if amount >= TYPES[kind][0] else cut(kind, number << amount)


def right(kind: str, number: int, amount: int) -> int:
    if amount >= TYPES[kind][0]:
        return -1 if number < 0 else 0
    return number >> amount


def quotient(kind: str, a: int, b: int) -> int:
    if b == 0:
        raise Failed("division by zero")
    return cut(kind, a // b)


def remainder(kind: str, a: int, b: int) -> int:
    if b == 0:
        raise Failed("division by zero")
    return cut(kind, a % b)


def at(array: Any, index: int) -> int:
    if index >= len(array):
        raise Failed("index out of bounds")
    return array[index]


def put(array: Any, index: Callable[[], int], value: int) -> None:
    place = index()
    at(array, place)
    array[place] = value


def change(kind: str, array: Any, index: int, operation: Callable[[int], int]) -> None:
    array[index] = cut(kind, operation(at(array, index)))


def duplicate(target: Any, source: Any) -> None:
    values: dict[str, Any] = source.__dict__
    for name, value in values.items():
        if isinstance(value, list):
            getattr(target, name)[:] = value  # in place: a reference to the array stays one
        else:
            setattr(target, name, value)


def bits(word: int, name: str) -> int:
    high, low = FIELDS[name]
    return word >> low & (1 << high - low + 1) - 1


def insert(word: int, name: str, value: int) -> int:
    high, low = FIELDS[name]
    ones = (1 << high - low + 1) - 1
    return word & ~(ones << low) | (value & ones) << low


def popcount(kind: str, number: int) -> int:
    return cut(kind, bin(number % (1 << TYPES[kind][0])).count("1"))


def count_leading_zeros(kind: str, number: int) -> int:
    width = TYPES[kind][0]
    return cut(kind, width - (number % (1 << width)).bit_length())


def count_trailing_zeros(kind: str, number: int) -> int:
    width = TYPES[kind][0]
    number %= 1 << width
    return cut(kind, width if number == 0 else (number & -number).bit_length() - 1)


def byte_swap(kind: str, number: int) -> int:
    size = TYPES[kind][0] // 8
    return cut(kind, int.from_bytes((number % (1 << 8 * size)).to_bytes(size, "little"), "big"))


NAMES = {
    name: value
    for name, value in list(globals().items())
    if callable(value) and not isinstance(value, type) and name != "Callable"
} | {"TABLE": TABLE}
