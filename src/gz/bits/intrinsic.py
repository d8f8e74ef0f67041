# SPDX-License-Identifier: Apache-2.0
"""Intrinsics: functions that the compiler knows. Their Python form gives editors names, types and docstrings."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

F = TypeVar("F", bound=Callable[..., Any])


class Intrinsic:
    """`kind` selects the compiler's rule; `operations` are the names that its first argument may take."""

    def __init__(self, function: Callable[..., Any], kind: str, operations: Mapping[str, Any]) -> None:
        self.name: str = function.__name__
        self.kind, self.operations = kind, operations
        self.parameters = tuple(inspect.signature(function).parameters.values())
        self.__name__, self.__doc__, self.__module__ = (
            function.__name__,
            function.__doc__,
            function.__module__,
        )

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        raise TypeError(f"{self.name}() stands for machine code: only compiled functions can call it")

    def __repr__(self) -> str:
        return f"<intrinsic {self.name}>"


def intrinsic(kind: str | None = None, operations: Mapping[str, Any] | None = None) -> Callable[[F], F]:
    """Declare an intrinsic; the decorated function's body is `...`."""

    def declare(function: F) -> F:
        return cast(F, Intrinsic(function, kind or function.__name__, operations or {}))

    return declare
