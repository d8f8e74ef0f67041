# SPDX-License-Identifier: Apache-2.0
"""What a function does, statement by statement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gz.metal.tree.expressions import Expression, Place
from gz.metal.tree.signature import Position, Signature, Variable


@dataclass(slots=True, eq=False)
class Piece:
    """A part of a text: constant, or a number in a base."""

    text: str
    number: Expression | None = None
    base: int = 10


@dataclass(slots=True, eq=False)
class Statement:
    """What is executed for its effect."""

    at: Position


@dataclass(slots=True, eq=False)
class Assign(Statement):
    """A value into a local."""

    variable: Variable
    value: Expression


@dataclass(slots=True, eq=False)
class Store(Statement):
    """`order`: "" plain, "once" volatile, "release"."""

    place: Place
    value: Expression
    order: str = ""


@dataclass(slots=True, eq=False)
class Update(Statement):
    """`place operator= value`: the place is found once. `value` sees the old content as `old`."""

    place: Place
    old: Variable
    value: Expression


@dataclass(slots=True, eq=False)
class Copy(Statement):
    """The bytes of a struct or array; `align` holds for both sides."""

    target: Expression
    source: Expression
    size: int
    align: int


@dataclass(slots=True, eq=False)
class Evaluate(Statement):
    """An expression whose value, if any, is dropped."""

    value: Expression


@dataclass(slots=True, eq=False)
class If(Statement):
    """Two ways; either may be empty."""

    condition: Expression
    yes: Sequence[Statement]
    no: Sequence[Statement]


@dataclass(slots=True, eq=False)
class While(Statement):
    """The body as long as the condition holds."""

    condition: Expression
    body: Sequence[Statement]


@dataclass(slots=True, eq=False)
class Count(Statement):
    """`for variable in range(start, stop, step)`; stop None: down to zero and including it."""

    variable: Variable
    start: Expression
    stop: Expression | None
    step: int
    body: Sequence[Statement]


@dataclass(slots=True, eq=False)
class Iterate(Statement):
    """`for variable in array`; `element` gives the value for the hidden index."""

    variable: Variable
    index: Variable
    counter: Variable | None
    count: Expression
    array: Variable
    array_value: Expression
    element: Expression
    body: Sequence[Statement]


@dataclass(slots=True, eq=False)
class Unroll(Statement):
    """A body for each element of a constant sequence."""

    bodies: Sequence[Sequence[Statement]]


@dataclass(slots=True, eq=False)
class Case:
    """The numbers of a case, its guard and its body."""

    values: Sequence[int]
    guard: Expression | None
    body: Sequence[Statement]


@dataclass(slots=True, eq=False)
class Switch(Statement):
    """`default` None: the cases are exhaustive, and anything else is a failed check."""

    subject: Expression
    cases: Sequence[Case]
    default: Sequence[Statement] | None


@dataclass(slots=True, eq=False)
class Break(Statement):
    """To behind the innermost loop."""


@dataclass(slots=True, eq=False)
class Continue(Statement):
    """To the innermost loop's next turn."""


@dataclass(slots=True, eq=False)
class Return(Statement):
    """Back to the caller."""

    value: Expression | None


@dataclass(slots=True, eq=False)
class Assert(Statement):
    """A panic with a text unless the condition holds."""

    condition: Expression
    pieces: Sequence[Piece]


@dataclass(slots=True, eq=False)
class Log(Statement):
    """A line of text and numbers."""

    pieces: Sequence[Piece]


@dataclass(slots=True, eq=False)
class Panic(Statement):
    """The end, with a text."""

    pieces: Sequence[Piece]


@dataclass(slots=True, eq=False)
class Trap(Statement):
    """The end, without one."""


@dataclass(slots=True, eq=False)
class Function:
    """A checked function. `body` None: defined elsewhere."""

    signature: Signature
    body: Sequence[Statement] | None
    variables: Sequence[Variable]
    #: Whom it calls and where in the source, for the check against recursion.
    calls: Sequence[tuple[Signature, Any]] = field(default_factory=list[tuple[Signature, Any]])
