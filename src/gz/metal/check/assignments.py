# SPDX-License-Identifier: Apache-2.0
"""Assignments: to variables, places, system registers, tuples of these."""

from __future__ import annotations

import ast
import builtins
from types import FunctionType, ModuleType
from typing import Any

import gz.metal.check.expressions as expressions
import gz.metal.check.operators as operators
import gz.metal.check.places as places
from gz.bits.annotation import AnnotationError, as_value, type_of
from gz.bits.integers import u64
from gz.bits.intrinsic import Intrinsic
from gz.bits.storage import Storage
from gz.bits.types import (
    NEVER,
    NONE,
    AddressType,
    ArrayType,
    IntType,
    LayoutType,
    PointerType,
    TupleType,
    Type,
)
from gz.metal import tree
from gz.metal.check import tokens
from gz.metal.check.conversion import EXACT, coerce, describe, integer_of, settle
from gz.metal.check.scope import MISSING, Scope
from gz.metal.check.static import static
from gz.metal.errors import Poisoned, Refusal
from gz.metal.tree import Variable

_U64: Any = u64


def assign(scope: Scope, node: ast.Assign) -> list[tree.Statement]:
    """`target = value`, or a tuple of targets."""
    if len(node.targets) != 1:
        raise Refusal(node.targets[1], "one assignment has one target", "write two statements")
    target = node.targets[0]
    if isinstance(target, ast.Tuple | ast.List):
        return _unpack(scope, node, target)
    return _store(scope, target, node.value, node)


def _store(scope: Scope, target: ast.expr, source: ast.expr, node: ast.stmt) -> list[tree.Statement]:
    if isinstance(target, ast.Name):
        known = known_variable(scope, target)
        value = expressions.typed(scope, source, known.type if known is not None else None)
        return [bind(scope, target, value, source)]
    wanted = target_type(scope, target)
    value = coerce(expressions.expression(scope, source, wanted), wanted, source)
    return [store(scope, target, value, source, node)]


def known_variable(scope: Scope, target: ast.Name) -> Variable | None:
    """The local that has this name already."""
    if target.id in scope.poisoned:
        raise Poisoned
    return scope.variables.get(target.id)


def target_type(scope: Scope, target: ast.expr) -> Type:
    """The type of what can be assigned to a place or system register."""
    if places.system_register(scope, target) is not None:
        return _U64
    if isinstance(target, ast.Starred):
        raise Refusal(target, "unpacking with * is not in the language")
    place = places.place(scope, target, "this cannot be assigned to")
    if isinstance(place.type, LayoutType | ArrayType):
        raise Refusal(target, f"this {place.type} lies in place: it is not assigned", "copy(target, source) copies it")
    return place.type


def store(scope: Scope, target: ast.expr, value: tree.Expression, source: ast.expr, node: ast.stmt) -> tree.Statement:
    """A value of the right type into a place or system register."""
    at = scope.at(node)
    register = places.system_register(scope, target)
    if register is not None:
        return places.write_register(register, value, target, at)
    return tree.Store(at, places.writable(places.place(scope, target), target), value)


def declare(scope: Scope, target: ast.Name, type: Type) -> Variable:
    """A new variable; its name must not hide anything."""
    refuse_shadow(scope, target)
    if type is NONE:
        raise Refusal(target, "None alone has no type", f"annotate it: {target.id}: T | None = None")
    if type is NEVER:
        raise Refusal(target, "this call does not return")
    variable = scope.new_variable(target.id, type, target)
    scope.variables[target.id] = variable
    return variable


def refuse_shadow(scope: Scope, target: ast.Name | ast.arg) -> None:
    """Refuse a local that would hide a name of the module or of Python."""
    name = target.id if isinstance(target, ast.Name) else target.arg
    if name in scope.constants:
        raise Refusal(target, f"{name} is a constant of this unrolled loop")
    hidden = scope.globals.get(name, MISSING)
    if hidden is MISSING:
        if name in _USED_BUILTINS:
            raise Refusal(target, f"{name} would hide Python's {name}")
        return
    what = "the module" if isinstance(hidden, ModuleType) else "the"
    kind = ""
    if isinstance(hidden, FunctionType | Intrinsic):
        kind = " function"
    elif isinstance(hidden, type):
        kind = " class"
    elif isinstance(hidden, Storage):
        kind = " storage"
    elif not isinstance(hidden, ModuleType):
        kind = " constant"
    raise Refusal(target, f"{name} would hide {what}{kind} {name} of this file", "take another name")


_USED_BUILTINS = frozenset(
    name
    for name in ("min", "max", "abs", "len", "range", "bool", "int", "tuple", "enumerate")
    if hasattr(builtins, name)
)


def bind(scope: Scope, target: ast.Name, value: tree.Expression, source: ast.expr) -> tree.Statement:
    """Assign to a local, which the first assignment declares."""
    variable = known_variable(scope, target)
    if variable is None:
        value = settle(value, source)
        variable = declare(scope, target, value.type)
    try:
        fitted = coerce(value, variable.type, source)
    except Refusal as refusal:
        line = variable.at[0]
        hint = refusal.hint or f"{variable.name} is a {variable.type} since line {line}"
        raise Refusal(refusal.node, refusal.message, hint) from None
    _remember(scope, variable, value, source)
    return tree.Assign(scope.at(target), variable, fitted)


def _remember(scope: Scope, variable: Variable, value: tree.Expression, source: ast.expr) -> None:
    tokens.keep(scope, variable, value, source)
    scope.flow.assigned.add(variable)
    scope.flow.present.discard(variable)
    if isinstance(value.type, PointerType) and not value.type.nullable:
        scope.flow.present.add(variable)


def _unpack(scope: Scope, node: ast.Assign, target: ast.Tuple | ast.List) -> list[tree.Statement]:
    for part in target.elts:
        if isinstance(part, ast.Starred | ast.Tuple | ast.List):
            raise Refusal(part, "only names and places stand in a tuple target")
    at = scope.at(node)
    kinds: list[Type | None] = []
    for part in target.elts:
        if isinstance(part, ast.Name):
            known = known_variable(scope, part)
            kinds.append(known.type if known is not None else None)
        else:
            kinds.append(target_type(scope, part))
    found: list[tree.Statement] = []
    values = _unpacked_values(scope, node, target, kinds, found)
    temporaries: list[tree.Expression] = []
    for value in values:
        variable = scope.hidden(value.type, node)
        found.append(tree.Assign(at, variable, value))
        temporaries.append(tree.Read(value.type, at, variable))
    sources = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value] * len(values)
    for part, value, kind, source in zip(target.elts, temporaries, kinds, sources, strict=True):
        if isinstance(part, ast.Name):
            if part.id != "_":
                found.append(bind(scope, part, value, source))
        else:
            assert kind is not None
            found.append(store(scope, part, coerce(value, kind, source), source, node))
    return found


def _unpacked_values(
    scope: Scope,
    node: ast.Assign,
    target: ast.Tuple | ast.List,
    kinds: list[Type | None],
    before: list[tree.Statement],
) -> list[tree.Expression]:
    count = len(target.elts)
    if isinstance(node.value, ast.Tuple):
        if len(node.value.elts) != count:
            raise Refusal(node.value, f"{len(node.value.elts)} values for {count} targets")
        values: list[tree.Expression] = []
        for part, kind in zip(node.value.elts, kinds, strict=True):
            value = expressions.typed(scope, part, kind)
            if value.type is NONE and kind is not None:
                value = coerce(value, kind, part)
            values.append(value)
        return values
    whole = expressions.typed(scope, node.value)
    if isinstance(whole, tree.Tuple):
        return list(whole.elements)
    if not isinstance(whole.type, TupleType):
        raise Refusal(node.value, f"{describe(whole.type)} is no tuple")
    if len(whole.type.elements) != count:
        raise Refusal(node.value, f"{len(whole.type.elements)} values for {count} targets")
    at = scope.at(node)
    holder = scope.hidden(whole.type, node)
    before.append(tree.Assign(at, holder, whole))
    held = tree.Read(whole.type, at, holder)
    return [tree.Item(kind, at, held, index) for index, kind in enumerate(whole.type.elements)]


def annotated(scope: Scope, node: ast.AnnAssign) -> list[tree.Statement]:
    """`x: u32 = 0`; without a value the type alone is declared."""
    if not isinstance(node.target, ast.Name):
        raise Refusal(node.target, "only locals are annotated here")
    try:
        names = {**scope.globals, **{name: scope.global_value(name) for name in scope.closure}}
        type = as_value(type_of(node.annotation, names))
    except AnnotationError as error:
        raise Refusal(error.node or node.annotation, str(error)) from None
    known = known_variable(scope, node.target)
    if known is not None:
        if known.type != type:
            raise Refusal(node.target, f"{known.name} is a {known.type} since line {known.at[0]}")
        variable = known
    else:
        variable = declare(scope, node.target, type)
    if node.value is None:
        return []
    value = expressions.expression(scope, node.value, type)
    fitted = coerce(value, type, node.value)
    _remember(scope, variable, value, node.value)
    return [tree.Assign(scope.at(node.target), variable, fitted)]


def augmented(scope: Scope, node: ast.AugAssign) -> list[tree.Statement]:
    """`target operator= value`; the target is evaluated once."""
    symbol = operators.SYMBOLS.get(type(node.op))
    if symbol is None:
        raise operators.refused_operator(node, node.op)
    at = scope.at(node)
    target = node.target
    register = places.system_register(scope, target)
    if isinstance(target, ast.Name):
        if static(scope, target) is not MISSING:
            raise Refusal(target, f"{target.id} is a constant")
        variable = scope.local(target)
        old: tree.Expression = tree.Read(variable.type, at, variable)
        result = _operate(scope, node, symbol, old, variable.type)
        return [tree.Assign(at, variable, result)]
    if register is not None:
        old = places.read_register(register, target, at)
        return [places.write_register(register, _operate(scope, node, symbol, old, _U64), target, at)]
    place = places.writable(places.place(scope, target, "this cannot be assigned to"), target)
    if isinstance(place.type, LayoutType | ArrayType):
        raise Refusal(target, f"{place.type} has no {symbol}")
    before = scope.hidden(place.type, node)
    result = _operate(scope, node, symbol, tree.Read(place.type, at, before), place.type)
    return [tree.Update(at, place, before, result)]


def _operate(scope: Scope, node: ast.AugAssign, symbol: str, old: tree.Expression, type: Type) -> tree.Expression:
    """The new value. The target's type decides the width: numbers and narrower operands follow it."""
    wanted = integer_of(type)
    nodes: tuple[ast.expr, ast.expr] = (node.target, node.value)
    if symbol in ("<<", ">>"):
        amount = expressions.expression(scope, node.value)
        shape = ast.copy_location(ast.BinOp(node.target, node.op, node.value), node)
        result = operators.combine_shift(scope, symbol, old, amount, nodes, shape, wanted)
    else:
        value = expressions.expression(scope, node.value, wanted)
        shape = ast.copy_location(ast.BinOp(node.target, node.op, node.value), node)
        result = operators.combine(scope, symbol, old, value, nodes, shape)
    if isinstance(result.type, IntType) and not isinstance(type, IntType | AddressType) and integer_of(type):
        raise Refusal(node, f"{type} has no {symbol}=", f"write … = {type}(…)")
    if result.type is EXACT:
        result = settle(result, node.value)
    return coerce(result, type, node.value)
