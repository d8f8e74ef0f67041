# SPDX-License-Identifier: Apache-2.0
"""Functions as their callers see them, and their variables. Positions are (line, column)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gz.bits.types import Type
from gz.metal.reader import Source

Position = tuple[int, int]


@dataclass(slots=True, eq=False)
class Variable:
    """A parameter or a local."""

    name: str
    type: Type
    at: Position
    parameter: bool = False


def full_name(function: Callable[..., Any]) -> str:
    """Module and qualified name."""
    return f"{function.__module__}.{function.__qualname__}".replace("<locals>.", "")


@dataclass(slots=True, eq=False)
class Signature:
    """A function as its callers see it."""

    function: Callable[..., Any]
    source: Source
    symbol: str
    parameters: tuple[Variable, ...]
    result: Type
    marks: frozenset[str]

    @property
    def name(self) -> str:
        """The full name: module and function."""
        return full_name(self.function)
