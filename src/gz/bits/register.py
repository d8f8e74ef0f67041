# SPDX-License-Identifier: Apache-2.0
"""Registers: integers with named bit fields."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, ClassVar, Self, overload


class BitField:
    """Bits `high` down to `low` of a register, both included. Read on an instance it is the field's value."""

    def __init__(self, high: int, low: int, kind: type[IntEnum] | None = None) -> None:
        if not 0 <= low <= high:
            raise ValueError(f"field({high}, {low}): the high bit comes first, then the low bit")
        self.high, self.low, self.kind = high, low, kind
        self.name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def width(self) -> int:
        """Bits."""
        return self.high - self.low + 1

    @property
    def shift(self) -> int:
        """The number of its lowest bit."""
        return self.low

    @property
    def mask(self) -> int:
        """The field's bits, in place."""
        return ((1 << self.width) - 1) << self.low

    def insert(self, word: int, value: int) -> int:
        """`word` with the field set. ValueError if the value does not fit."""
        if not 0 <= value < 1 << self.width:
            raise ValueError(f"{self.name} has {self.width} bits: {value:#x} does not fit")
        return word & ~self.mask | value << self.low

    @overload
    def __get__(self, instance: None, owner: type) -> BitField: ...
    @overload
    def __get__(self, instance: int, owner: type) -> int: ...
    def __get__(self, instance: int | None, owner: type) -> BitField | int:
        if instance is None:
            return self
        value = (int(instance) & self.mask) >> self.low
        if self.kind is not None and value in self.kind._value2member_map_:
            return self.kind(value)
        return value

    def __set__(self, instance: Any, value: int) -> None:
        raise AttributeError(f"registers are values: write r = r.replace({self.name}=…)")


def field(high: int, low: int | None = None, kind: type[IntEnum] | None = None) -> BitField:
    """Bits high…low, or the single bit `high`; `kind` names the values."""
    return BitField(high, high if low is None else low, kind)


class Register(int):
    """A register's value. `class ESR_EL2(Register): EC = field(31, 26)`; `width=32` for narrow ones.

    `ESR_EL2(x).EC` reads a field, `HCR_EL2(VM=1, RW=1)` builds a value, `r.replace(VM=0)` gives a changed one.
    """

    WIDTH: ClassVar[int] = 64
    FIELDS: ClassVar[dict[str, BitField]] = {}

    def __init_subclass__(cls, width: int | None = None) -> None:
        if width is not None:
            if width not in (8, 16, 32, 64):
                raise TypeError(f"{cls.__name__}: the width is 8, 16, 32 or 64, not {width}")
            cls.WIDTH = width  # pyright: ignore[reportConstantRedefinition] - a class declares its own
        fields = dict(cls.FIELDS)
        for name, bits in vars(cls).items():
            if isinstance(bits, BitField):
                if bits.high >= cls.WIDTH:
                    raise TypeError(f"{cls.__name__}.{name}: bit {bits.high} is outside of {cls.WIDTH} bits")
                for other in fields.values():
                    if other.mask & bits.mask and other.name != name:
                        raise TypeError(f"{cls.__name__}.{name} overlaps {other.name}")
                fields[name] = bits
        cls.FIELDS = fields  # pyright: ignore[reportConstantRedefinition]

    def __new__(cls, value: int = 0, /, **fields: int) -> Self:
        value = int(value)
        if not 0 <= value < 1 << cls.WIDTH:
            raise ValueError(f"{cls.__name__} has {cls.WIDTH} bits: {value:#x} does not fit")
        for name, content in fields.items():
            if name not in cls.FIELDS:
                raise TypeError(f"{cls.__name__} has no field {name}")
            value = cls.FIELDS[name].insert(value, int(content))
        return super().__new__(cls, value)

    def replace(self, **fields: int) -> Self:
        """The same register with some fields changed."""
        return type(self)(int(self), **fields)

    def __repr__(self) -> str:
        parts = [f"{name}={(self & bits.mask) >> bits.low:#x}" for name, bits in self.FIELDS.items()]
        return f"{type(self).__name__}({', '.join([f'{int(self):#x}', *parts])})"
