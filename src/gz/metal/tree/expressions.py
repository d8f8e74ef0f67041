# SPDX-License-Identifier: Apache-2.0
"""Values and places: every expression has a type, every conversion is a node."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gz.bits.storage import FunctionTable, Storage, Table
from gz.bits.types import BOOL, Type
from gz.metal.tree.signature import Position, Signature, Variable


@dataclass(slots=True, eq=False)
class Expression:
    """A value; calls without a result have the type NONE."""

    type: Type
    at: Position


@dataclass(slots=True, eq=False)
class Constant(Expression):
    """A number, a truth value (0 or 1) or None (0)."""

    value: int
    #: The value came out of `~` on exact numbers: it means itself modulo the width of its type.
    modular: bool = False


@dataclass(slots=True, eq=False)
class Read(Expression):
    """A variable's value."""

    variable: Variable


@dataclass(slots=True, eq=False)
class Place:
    """Memory of a type. `window`: a device's, accessed by one plain instruction. `constant`: not to be written."""

    type: Type
    at: Position
    window: bool
    constant: bool


@dataclass(slots=True, eq=False)
class Member(Place):
    """A field; `base` is a reference to its struct."""

    base: Expression
    offset: int


@dataclass(slots=True, eq=False)
class Element(Place):
    """An array's element; `base` is a reference to an array of `count` elements, or carries its own length."""

    base: Expression
    index: Expression
    count: int | None
    checked: bool = True


@dataclass(slots=True, eq=False)
class Declared(Place):
    """Storage or a constant table."""

    object: Storage | Table


@dataclass(slots=True, eq=False)
class At(Place):
    """Where a reference or an address points."""

    base: Expression


@dataclass(slots=True, eq=False)
class Load(Expression):
    """`order`: "" plain, "once" volatile, "acquire"."""

    place: Place
    order: str = ""


@dataclass(slots=True, eq=False)
class Reference(Expression):
    """The address of a place, as a reference."""

    place: Place


@dataclass(slots=True, eq=False)
class Slice(Expression):
    """An array reference with its length: from a reference to an array, or an address."""

    base: Expression
    count: Expression


@dataclass(slots=True, eq=False)
class Length(Expression):
    """The number of elements of an array reference."""

    array: Expression


@dataclass(slots=True, eq=False)
class Binary(Expression):
    """Arithmetic in the width of `type`: + - * // % & | ^ << >>. The right operand of a shift has its own type."""

    operator: str
    left: Expression
    right: Expression


@dataclass(slots=True, eq=False)
class Unary(Expression):
    """`-`, `~`, `abs`, and the bit counts popcount, count_leading_zeros, count_trailing_zeros, byte_swap."""

    operator: str
    operand: Expression


@dataclass(slots=True, eq=False)
class Extreme(Expression):
    """min and max."""

    operator: str
    operands: Sequence[Expression]


@dataclass(slots=True, eq=False)
class Compare(Expression):
    """A chain of comparisons, operands of one type: a < b <= c. A later operand is evaluated only if it decides."""

    operators: Sequence[str]
    operands: Sequence[Expression]


@dataclass(slots=True, eq=False)
class Logic(Expression):
    """`and`, `or` with their short cuts."""

    operator: str
    operands: Sequence[Expression]


@dataclass(slots=True, eq=False)
class Not(Expression):
    """The other truth value."""

    operand: Expression


@dataclass(slots=True, eq=False)
class IsNone(Expression):
    """Is the reference None?"""

    operand: Expression


@dataclass(slots=True, eq=False)
class Choose(Expression):
    """`yes if condition else no`."""

    condition: Expression
    yes: Expression
    no: Expression


@dataclass(slots=True, eq=False)
class Convert(Expression):
    """To another scalar type by extension (of the operand's sign), truncation or as the same bits."""

    operand: Expression


@dataclass(slots=True, eq=False)
class Bits(Expression):
    """A bit field of a register."""

    operand: Expression
    low: int
    width: int


@dataclass(slots=True, eq=False)
class Insert(Expression):
    """A register with one field replaced by the low bits of a value of the register's integer type."""

    operand: Expression
    low: int
    width: int
    value: Expression


@dataclass(slots=True, eq=False)
class Tuple(Expression):
    """Several values as one."""

    elements: Sequence[Expression]


@dataclass(slots=True, eq=False)
class Item(Expression):
    """One element of a tuple value."""

    tuple: Expression
    index: int


@dataclass(slots=True, eq=False)
class Call(Expression):
    """A direct call."""

    signature: Signature
    arguments: Sequence[Expression]


@dataclass(slots=True, eq=False)
class CallTable(Expression):
    """A call through a table of functions; the index is checked."""

    table: FunctionTable
    functions: Sequence[Signature]
    index: Expression
    arguments: Sequence[Expression]


@dataclass(slots=True, eq=False)
class Atomic(Expression):
    """fetch_add, fetch_or, fetch_and, exchange; `expected` makes it a compare_exchange."""

    operator: str
    place: Place
    value: Expression
    expected: Expression | None = None


@dataclass(slots=True, eq=False)
class Instruction(Expression):
    """An instruction of the architecture: kind (sysreg_read, sys, barrier, …), what it applies to, operands."""

    kind: str
    name: str
    operation: Any
    operands: Sequence[Expression]


def truth(value: bool, at: Position) -> Constant:
    """True or False as a constant."""
    return Constant(BOOL, at, int(value))
