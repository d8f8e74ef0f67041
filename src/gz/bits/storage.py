# SPDX-License-Identifier: Apache-2.0
"""Memory and tables that a module declares at its top level."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Any, ClassVar, TypeVar, cast, overload

from gz.bits import annotation as annotations
from gz.bits.layout import Array, Layout
from gz.bits.types import ArrayType, FunctionType, LayoutType, Type, align_of

T = TypeVar("T")
S = TypeVar("S", bound=Layout)
F = TypeVar("F", bound=Callable[..., Any])


class Declared:
    """A top-level object; `name` is its module's name and its own, or its number if a container holds it."""

    _count: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        self.module: str = sys._getframe(3).f_globals.get("__name__", "?")  # pyright: ignore[reportPrivateUsage]
        self.number = self._count[self.module]
        self._count[self.module] += 1

    @property
    def name(self) -> str:
        """Full name: module and variable."""
        module = sys.modules.get(self.module)
        for name, value in vars(module).items() if module else ():
            if value is self:
                return f"{self.module}.{name}"
        return f"{self.module}.{type(self).__name__.lower()}.{self.number}"

    def __repr__(self) -> str:
        return self.name.rpartition(".")[2]


class Storage(Declared):
    """Zero-initialised writable memory."""

    def __init__(self, type: Type, align: int) -> None:
        super().__init__()
        self.type, self.align = type, align


class Table(Declared, Sequence[Any]):
    """Read-only elements, known at build time. Under CPython a sequence of what it was made from."""

    def __init__(self, element: Type, values: Sequence[Any]) -> None:
        super().__init__()
        self.element, self.values = element, tuple(values)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)


class FunctionTable(Declared, Sequence[Any]):
    """Functions of one signature, called by index."""

    def __init__(self, signature: Any, functions: Sequence[Callable[..., Any]]) -> None:
        super().__init__()
        self._signature, self.functions = signature, tuple(functions)

    def signature(self) -> FunctionType:
        """Parameters and result. TypeError if the annotation is no Callable."""
        module = sys.modules.get(self.module)
        type = annotations.type_of(self._signature, vars(module) if module else {})
        if not isinstance(type, FunctionType):
            raise TypeError(f"function_table() takes a Callable[[…], …], not {type}")
        return type

    def __len__(self) -> int:
        return len(self.functions)

    def __getitem__(self, index: Any) -> Any:
        return cast("Any", self.functions[index])


@overload
def storage(type: type[S], *, align: int = 1) -> S: ...
@overload
def storage(type: type[T], count: int, *, align: int = 1) -> Array[T]: ...
def storage(type: Any, count: int | None = None, *, align: int = 1) -> Any:
    """`storage(Vm, 16)` is an Array[Vm], `storage(Machine)` one Machine; all bytes are zero at the start."""
    if align < 1 or align & align - 1:
        raise TypeError(f"align={align} is no power of two")
    element = annotations.type_of(type)
    if count is not None:
        return Storage(ArrayType(element, count), align)
    if not isinstance(element, LayoutType):
        raise TypeError(f"storage({element}) would be a single number: put it in a struct")
    return Storage(element, align)


def table(element: type[T], values: Sequence[T | Mapping[str, Any]]) -> Array[T]:
    """A constant table: `table(u32, [1, 2, 3])`; of structs, each given as a dict of its fields."""
    type = annotations.type_of(element)
    if isinstance(type, ArrayType) or (isinstance(type, LayoutType) and type.window):
        raise TypeError(f"a table of {type} is not in the language")
    for value in values:
        if not isinstance(value, Mapping if isinstance(type, LayoutType) else int | IntEnum):
            raise TypeError(f"{value!r} is no {type}" + (": give a dict of its fields" * isinstance(type, LayoutType)))
    align_of(type)
    return cast(Any, Table(type, values))


def function_table(signature: Any, functions: Sequence[F]) -> Sequence[F]:
    """`TRAPS = function_table(Handler, [f, g])`; `TRAPS[i](vcpu)` checks the index. TypeError if there is none."""
    if not functions:
        raise TypeError("function_table() needs functions")
    return FunctionTable(signature, functions)
