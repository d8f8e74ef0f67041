# SPDX-License-Identifier: Apache-2.0
"""Expressions: from syntax to typed trees.

`wanted` is the type that the place of use would like: exact numbers take it, everything else keeps its own type and
is converted (or refused) by whoever asked.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from enum import IntEnum
from typing import Any, cast

import gz.metal.check.calls as calls
import gz.metal.check.places as places
from gz.bits.annotation import register_type
from gz.bits.enumeration import enum_type
from gz.bits.intrinsic import Intrinsic
from gz.bits.register import Register
from gz.bits.storage import Storage, Table
from gz.bits.types import BOOL, NEVER, NONE, ArrayType, EnumType, LayoutType, PointerType, TupleType, Type
from gz.metal import tree
from gz.metal.check import tokens
from gz.metal.check.conditions import condition
from gz.metal.check.conversion import EXACT, ExactType, coerce, common, describe, integer_of, settle
from gz.metal.check.operators import binary, compare, logic, unary
from gz.metal.check.scope import MISSING, Scope
from gz.metal.check.static import static
from gz.metal.errors import Refusal


def expression(scope: Scope, node: ast.expr, wanted: Type | None = None) -> tree.Expression:
    """The typed tree of an expression; its type may be EXACT."""
    rule = _RULES.get(type(node))
    if rule is None:
        name = _NAMES.get(type(node), type(node).__name__)
        raise Refusal(node, f"{name} is not in the language", _HINTS.get(type(node), ""))
    return rule(scope, node, wanted)


def value(scope: Scope, node: ast.expr, target: Type) -> tree.Expression:
    """The expression as a value of the target type."""
    return coerce(expression(scope, node, target), target, node)


def typed(scope: Scope, node: ast.expr, wanted: Type | None = None) -> tree.Expression:
    """The expression with a type of its own; not a call without a result."""
    result = expression(scope, node, wanted)
    if result.type is EXACT and wanted is not None:
        result = coerce(result, wanted, node)
    result = settle(result, node)
    if result.type is NONE and not isinstance(result, tree.Constant):
        raise Refusal(node, "this call has no result")
    return result


def from_object(scope: Scope, item: Any, node: ast.expr, wanted: Type | None = None) -> tree.Expression:
    """A build-time object as a value."""
    at = scope.at(node)
    if item is None:
        return tree.Constant(NONE, at, 0)
    if isinstance(item, bool):
        return tree.Constant(BOOL, at, int(item))
    if isinstance(item, IntEnum):
        return tree.Constant(enum_type(type(item)), at, int(item))
    if isinstance(item, Register):
        return tree.Constant(register_type(type(item)), at, int(item))
    if isinstance(item, int):
        return tree.Constant(EXACT, at, item)
    if isinstance(item, Storage | Table):
        return declared(item, at)
    if isinstance(item, tuple):
        items = cast("tuple[Any, ...]", item)
        kinds = wanted.elements if isinstance(wanted, TupleType) else (None,) * len(items)
        if len(kinds) == len(items):
            parts = [from_object(scope, part, node, kind) for part, kind in zip(items, kinds, strict=True)]
            return tree.Tuple(TupleType(tuple(part.type for part in parts)), at, parts)
    kind = type(cast("object", item)).__name__
    raise Refusal(node, f"{_kind(item)} is not a value", _KIND_HINTS.get(kind, ""))


_KIND_HINTS = {
    "str": "texts stand in log(), panic() and assert",
    "float": "there is no floating point",
    "function": "call it, or put it into a function_table",
}


def _kind(item: Any) -> str:
    if isinstance(item, type):
        return f"the type {item.__name__}"
    if isinstance(item, Intrinsic):
        return f"the intrinsic {item.name}"
    if callable(item):
        return f"the function {getattr(item, '__name__', item)}"
    return {"module": "a module", "str": "a text", "float": "a float"}.get(
        type(item).__name__, f"a Python {type(item).__name__}"
    )


def declared(item: Storage | Table, at: tree.Position) -> tree.Expression:
    """A reference to storage or a table."""
    type = item.type if isinstance(item, Storage) else ArrayType(item.element, len(item), constant=True)
    window = isinstance(type, LayoutType) and type.window
    place = tree.Declared(type, at, window, isinstance(item, Table), item)
    return tree.Reference(PointerType(type), at, place)


def _constant(scope: Scope, node: ast.Constant, wanted: Type | None) -> tree.Expression:
    if node.value is ...:
        raise Refusal(node, "`...` is the body of @extern functions only")
    return from_object(scope, node.value, node, wanted)


def _name(scope: Scope, node: ast.Name, wanted: Type | None) -> tree.Expression:
    item = static(scope, node)
    if item is not MISSING:
        return from_object(scope, item, node, wanted)
    variable = scope.local(node)
    tokens.read(scope, variable, node)
    type = variable.type
    if isinstance(type, PointerType) and type.nullable and variable in scope.flow.present:
        type = PointerType(type.target)
    return tree.Read(type, scope.at(node), variable)


def _attribute(scope: Scope, node: ast.Attribute, wanted: Type | None) -> tree.Expression:
    item = static(scope, node)
    if item is not MISSING:
        return from_object(scope, item, node, wanted)
    return places.attribute(scope, node)


def _subscript(scope: Scope, node: ast.Subscript, wanted: Type | None) -> tree.Expression:
    item = static(scope, node)
    if item is not MISSING:
        return from_object(scope, item, node, wanted)
    return places.subscript(scope, node)


def _tuple(scope: Scope, node: ast.Tuple, wanted: Type | None) -> tree.Expression:
    kinds: Any = [None] * len(node.elts)
    if isinstance(wanted, TupleType) and len(wanted.elements) == len(node.elts):
        kinds = wanted.elements
    if not node.elts:
        raise Refusal(node, "an empty tuple is no value")
    parts: list[tree.Expression] = []
    for part, kind in zip(node.elts, kinds, strict=True):
        if isinstance(part, ast.Starred):
            raise Refusal(part, "unpacking with * is not in the language")
        item = expression(scope, part, kind)
        parts.append(coerce(item, kind, part) if kind is not None else settle(item, part))
    return tree.Tuple(TupleType(tuple(part.type for part in parts)), scope.at(node), parts)


def _choose(scope: Scope, node: ast.IfExp, wanted: Type | None) -> tree.Expression:
    test = condition(scope, node.test)
    before = scope.flow
    scope.flow = before.copy()
    scope.flow.present |= test.if_true
    yes = expression(scope, node.body, wanted)
    scope.flow = before.copy()
    scope.flow.present |= test.if_false
    no = expression(scope, node.orelse, wanted)
    scope.flow = before
    yes, no, type = unify(scope, (yes, no), (node.body, node.orelse), wanted, node)
    return tree.Choose(type, scope.at(node), test.tree, yes, no)


def unify(
    scope: Scope,
    values: tuple[tree.Expression, tree.Expression],
    nodes: tuple[ast.expr, ast.expr],
    wanted: Type | None,
    node: ast.expr,
) -> tuple[tree.Expression, tree.Expression, Type]:
    """Two alternatives as values of one type."""
    first, second = values
    numbers = all(isinstance(item, tree.Constant) and isinstance(item.type, ExactType | EnumType) for item in values)
    if wanted is not None and (numbers or isinstance(wanted, PointerType | TupleType)):
        return coerce(first, wanted, nodes[0]), coerce(second, wanted, nodes[1]), wanted
    if first.type is NEVER or second.type is NEVER:
        return first, second, second.type if first.type is NEVER else first.type
    if first.type == second.type and first.type is not EXACT:
        return first, second, first.type
    references = [item.type for item in values if isinstance(item.type, PointerType)]
    if references and all(isinstance(item.type, PointerType) or item.type is NONE for item in values):
        nullable = any(item.type is NONE or item.type.nullable for item in values)  # type: ignore[attr-defined]
        target = PointerType(references[0].target, nullable)
        return coerce(first, target, nodes[0]), coerce(second, target, nodes[1]), target
    if (
        (integer_of(first.type) is None and first.type is not EXACT)
        or (integer_of(second.type) is None and second.type is not EXACT)
    ) and EXACT not in (first.type, second.type):
        raise Refusal(node, f"one way gives {describe(first.type)}, the other {describe(second.type)}")
    return common(first, second, nodes, node)


def _named(scope: Scope, node: ast.NamedExpr, wanted: Type | None) -> tree.Expression:
    raise Refusal(node, ":= is not in the language", "assign in a line of its own")


def _joined(scope: Scope, node: ast.JoinedStr, wanted: Type | None) -> tree.Expression:
    raise Refusal(node, "a text is not a value", "texts stand in log(), panic() and assert")


_RULES: dict[type[ast.expr], Callable[[Scope, Any, Type | None], tree.Expression]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.Attribute: _attribute,
    ast.Subscript: _subscript,
    ast.Tuple: _tuple,
    ast.IfExp: _choose,
    ast.BinOp: binary,
    ast.UnaryOp: unary,
    ast.Compare: compare,
    ast.BoolOp: logic,
    ast.Call: lambda scope, node, wanted: calls.call(scope, node, wanted),
    ast.NamedExpr: _named,
    ast.JoinedStr: _joined,
}

_NAMES: dict[type[ast.expr], str] = {
    ast.List: "a list",
    ast.Dict: "a dict",
    ast.Set: "a set",
    ast.ListComp: "a comprehension",
    ast.SetComp: "a comprehension",
    ast.DictComp: "a comprehension",
    ast.GeneratorExp: "a generator",
    ast.Lambda: "a lambda",
    ast.Await: "await",
    ast.Yield: "yield",
    ast.YieldFrom: "yield",
    ast.Starred: "unpacking with *",
    ast.Slice: "a slice",
}

_HINTS: dict[type[ast.expr], str] = {
    ast.List: "arrays are fields, storage(T, n) or table(T, […])",
    ast.ListComp: "table(T, […]) at the module's top level is computed at build time",
    ast.Lambda: "write a function; several of one signature go into a function_table",
}
