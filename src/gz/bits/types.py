# SPDX-License-Identifier: Apache-2.0
"""The types of the language as objects: what annotations resolve to, with their sizes in memory."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gz.bits.layout import Layout
    from gz.bits.register import Register


@dataclass(frozen=True, eq=False)
class Type:
    """Base of all types. Scalars have `size` and `align` in bytes."""

    def __str__(self) -> str:
        raise NotImplementedError


@dataclass(frozen=True, eq=False)
class IntType(Type):
    """A fixed-width integer; calling it converts a Python integer by truncation."""

    name: str
    bits: int
    signed: bool

    @property
    def size(self) -> int:
        """Bytes."""
        return self.bits // 8

    @property
    def align(self) -> int:
        """Bytes."""
        return self.bits // 8

    @property
    def minimum(self) -> int:
        """The least value."""
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def maximum(self) -> int:
        """The greatest value."""
        return (1 << self.bits - self.signed) - 1

    def wrap(self, value: int) -> int:
        """The value modulo 2**bits, in this type's range."""
        value &= (1 << self.bits) - 1
        return value - (1 << self.bits) if value > self.maximum else value

    def __call__(self, value: int = 0) -> int:
        return self.wrap(int(value))

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class AddressType(Type):
    """A 64-bit address of one address space; the spaces do not mix."""

    name: str
    size = 8
    align = 8
    bits = 64

    def __call__(self, value: int = 0) -> int:
        return int(value) & (1 << 64) - 1

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name


@dataclass(frozen=True, eq=False)
class BoolType(Type):
    """One byte in memory, 0 or 1."""

    size = 1
    align = 1

    def __str__(self) -> str:
        return "bool"


@dataclass(frozen=True)
class EnumType(Type):
    """An IntEnum held in the integer type that @enumeration gave it, u64 without."""

    enum: type[IntEnum]
    base: IntType

    @property
    def size(self) -> int:
        """Bytes."""
        return self.base.size

    @property
    def align(self) -> int:
        """Bytes."""
        return self.base.align

    def __str__(self) -> str:
        return self.enum.__name__


@dataclass(frozen=True)
class RegisterType(Type):
    """An integer with named fields."""

    register: type[Register]
    base: IntType

    @property
    def size(self) -> int:
        """Bytes."""
        return self.base.size

    @property
    def align(self) -> int:
        """Bytes."""
        return self.base.align

    def __str__(self) -> str:
        return self.register.__name__


@dataclass(frozen=True)
class LayoutType(Type):
    """A struct or a device window, in place."""

    layout: type[Layout]

    @property
    def size(self) -> int:
        """Bytes."""
        return self.layout.size

    @property
    def align(self) -> int:
        """Bytes."""
        return self.layout.align

    @property
    def window(self) -> bool:
        """Is it a device window?"""
        return self.layout.is_window

    def __str__(self) -> str:
        return self.layout.__name__


@dataclass(frozen=True)
class PointerType(Type):
    """The address of a struct, window or array; as a value it is a reference."""

    target: Type
    nullable: bool = False
    size = 8
    align = 8

    def __or__(self, other: object) -> PointerType:
        if other is not None:
            return NotImplemented
        return PointerType(self.target, True)

    def __str__(self) -> str:
        return f"{self.target} | None" if self.nullable else str(self.target)


@dataclass(frozen=True)
class HeldType(PointerType):
    """A reference to a struct whose lock is held: a token, which is given back exactly once."""

    def __or__(self, other: object) -> PointerType:
        raise TypeError(f"{self} is never None")

    def __str__(self) -> str:
        return f"Held[{self.target}]"


@dataclass(frozen=True)
class ArrayType(Type):
    """`count` elements in place; without a count (parameters, `view`) a pointer and a length."""

    element: Type
    count: int | None = None
    constant: bool = False

    @property
    def size(self) -> int:
        """Bytes."""
        if self.count is None:
            raise TypeError(f"{self} has no length: give it one with array(n)")
        return size_of(self.element) * self.count

    @property
    def align(self) -> int:
        """Bytes."""
        return align_of(self.element)

    def __str__(self) -> str:
        return f"Array[{self.element}]"


@dataclass(frozen=True)
class TupleType(Type):
    """Several results of a call."""

    elements: tuple[Type, ...]

    def __str__(self) -> str:
        return f"tuple[{', '.join(map(str, self.elements))}]"


@dataclass(frozen=True)
class FunctionType(Type):
    """The signature of a table of functions."""

    parameters: tuple[Type, ...]
    result: Type

    def __str__(self) -> str:
        return f"Callable[[{', '.join(map(str, self.parameters))}], {self.result}]"


@dataclass(frozen=True, eq=False)
class NoneType(Type):
    """What a function without a result gives, and the type of `None`."""

    def __str__(self) -> str:
        return "None"


@dataclass(frozen=True, eq=False)
class NeverType(Type):
    """What a function that does not return gives."""

    def __str__(self) -> str:
        return "NoReturn"


BOOL = BoolType()
NONE = NoneType()
NEVER = NeverType()


def size_of(type: Type) -> int:
    """Bytes in memory; TypeError if the type cannot lie there."""
    return _memory(type).size


def align_of(type: Type) -> int:
    """Bytes. TypeError if it cannot lie in memory."""
    return _memory(type).align


def _memory(type: Type) -> Any:
    if isinstance(type, HeldType) or not hasattr(type, "size"):
        raise TypeError(f"{type} cannot lie in memory")
    return type
