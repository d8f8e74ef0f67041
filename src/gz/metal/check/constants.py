# SPDX-License-Identifier: Apache-2.0
"""Constant tables are not written, by whatever way a reference to one travels.

For every function: through which of its parameters does it write, itself or by the functions it calls? Then a table
may be given to a parameter that is only read. Calls do not recurse, so one pass from the bottom suffices.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

from gz.bits.storage import Table
from gz.bits.types import ArrayType, PointerType
from gz.metal import tree
from gz.metal.errors import Diagnostic
from gz.metal.tree import Signature, Variable

Origin = Variable | Table

_WRITTEN = "this is a constant table: it cannot be written"
_KEPT = "a constant table is referred to by locals and parameters only"


def written_tables(functions: Mapping[str, tree.Function]) -> list[Diagnostic]:
    """The errors of all functions."""
    analysis = _Analysis(functions)
    for symbol in functions:
        analysis.written(symbol)
    return analysis.errors


#: The nodes that write, or carry references elsewhere.
_OF_INTEREST = frozenset[type](
    {tree.Store, tree.Update, tree.Atomic, tree.Copy, tree.Call, tree.CallTable, tree.Assign, tree.Iterate}
)
_PLAIN = frozenset({"type", "at", "text", "operator", "operators", "window", "constant", "signature", "functions"})


@functools.cache
def _parts(kind: type) -> tuple[str, ...]:
    """The attributes of a kind of node that can hold nodes."""
    if not is_dataclass(kind) or issubclass(kind, Signature | Variable):
        return ()
    return tuple(field.name for field in fields(kind) if field.name not in _PLAIN)


def _nodes(roots: Iterable[object]) -> list[Any]:
    """The nodes of interest in trees, each before its parts."""
    found: list[Any] = []
    waiting: list[Any] = list(roots)
    while waiting:
        node = waiting.pop()
        kind = type(cast("object", node))
        if kind is list or kind is tuple:
            waiting += node
            continue
        if kind in _OF_INTEREST:
            found.append(node)
        for name in _parts(kind):
            waiting.append(getattr(node, name))
    return found


class _Analysis:
    def __init__(self, functions: Mapping[str, tree.Function]) -> None:
        self.functions = functions
        self.known: dict[str, frozenset[Variable]] = {}
        self.errors: list[Diagnostic] = []

    def written(self, symbol: str) -> frozenset[Variable]:
        """The parameters through which a function writes."""
        if symbol not in self.known:
            function = self.functions[symbol]
            self.known[symbol] = frozenset()
            if function.body is None:  # assembly may write through all
                self.known[symbol] = frozenset(function.signature.parameters)
            else:
                self.known[symbol] = _Function(self, function).written()
        return self.known[symbol]


class _Function:
    def __init__(self, analysis: _Analysis, function: tree.Function) -> None:
        self.analysis, self.function = analysis, function
        self.everything = _nodes(function.body or ())
        self.assigned: dict[Variable, list[tree.Expression]] = {}
        for node in self.everything:
            if isinstance(node, tree.Assign):
                self.assigned.setdefault(node.variable, []).append(node.value)
            elif isinstance(node, tree.Iterate):
                self.assigned.setdefault(node.array, []).append(node.array_value)
                self.assigned.setdefault(node.variable, []).append(node.element)

    def written(self) -> frozenset[Variable]:
        found: set[Variable] = set()
        for node in self.everything:
            if isinstance(node, tree.Store | tree.Update | tree.Atomic):
                found |= self._write(self._place(node.place), node.place.at, _WRITTEN)
            elif isinstance(node, tree.Copy):
                found |= self._write(self._origins(node.target), node.at, _WRITTEN)
            if isinstance(node, tree.Store | tree.Atomic) and isinstance(node.place.type, PointerType):
                found |= self._write(self._origins(node.value), node.at, _KEPT)
            elif isinstance(node, tree.Call | tree.CallTable):
                found |= self._call(node)
        return frozenset(found)

    def _write(self, origins: Iterable[Origin], at: tree.Position, message: str) -> set[Variable]:
        sources = self._sources(origins)
        if any(isinstance(source, Table) for source in sources):
            self.analysis.errors.append(self.function.signature.source.at(at, message))
        return {source for source in sources if isinstance(source, Variable) and source.parameter}

    def _call(self, node: tree.Call | tree.CallTable) -> set[Variable]:
        found: set[Variable] = set()
        called = [node.signature] if isinstance(node, tree.Call) else dict.fromkeys(node.functions)
        for signature in called:
            written = self.analysis.written(signature.symbol)
            for parameter, argument in zip(signature.parameters, node.arguments, strict=True):
                if parameter in written:
                    name = signature.function.__qualname__
                    message = f"{name} writes through {parameter.name}, this is a constant table"
                    found |= self._write(self._origins(argument), argument.at, message)
        return found

    def _sources(self, origins: Iterable[Origin]) -> set[Origin]:
        """Parameters and tables behind variables, through any number of assignments."""
        found: set[Origin] = set()
        waiting = list(origins)
        while waiting:
            origin = waiting.pop()
            if origin not in found:
                found.add(origin)
                if isinstance(origin, Variable):
                    waiting += [source for value in self.assigned.get(origin, ()) for source in self._origins(value)]
        return found

    def _origins(self, node: tree.Expression) -> frozenset[Origin]:
        """The variables and tables that a reference leads into at once."""
        if not isinstance(node.type, PointerType | ArrayType):
            return frozenset()
        if isinstance(node, tree.Read):
            return frozenset([node.variable])
        if isinstance(node, tree.Reference):
            return self._place(node.place)
        if isinstance(node, tree.Slice):
            return self._origins(node.base)
        if isinstance(node, tree.Convert):
            return self._origins(node.operand)
        if isinstance(node, tree.Choose):
            return self._origins(node.yes) | self._origins(node.no)
        if isinstance(node, tree.Call | tree.CallTable):
            return frozenset(origin for argument in node.arguments for origin in self._origins(argument))
        return frozenset()

    def _place(self, place: tree.Place) -> frozenset[Origin]:
        if isinstance(place, tree.Declared):
            return frozenset([place.object]) if isinstance(place.object, Table) else frozenset()
        if isinstance(place, tree.Member | tree.Element):
            return self._origins(place.base)
        return frozenset()
