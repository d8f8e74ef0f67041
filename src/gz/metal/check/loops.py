# SPDX-License-Identifier: Apache-2.0
"""Loops: while, range, arrays, and those unrolled at build time."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from typing import Any

import gz.metal.check.expressions as expressions
import gz.metal.check.places as places
import gz.metal.check.statements as statements
from gz.bits.integers import u64
from gz.bits.types import ArrayType, IntType, LayoutType, PointerType, Type
from gz.metal import tree
from gz.metal.check import tokens
from gz.metal.check.assignments import declare, refuse_shadow
from gz.metal.check.conditions import condition
from gz.metal.check.conversion import EXACT, coerce, common, describe, integer_of, settle
from gz.metal.check.scope import MISSING, Flow, Loop, Scope, stored_names
from gz.metal.check.static import constant, static
from gz.metal.errors import Refusal
from gz.metal.intrinsics import unroll
from gz.metal.tree import Variable

_U64: Any = u64
_UNROLLED_MAX = 4096


def _forget(scope: Scope, body: Iterable[ast.stmt]) -> None:
    """What the body assigns may be None again at the loop's next turn."""
    for name in stored_names(body):
        variable = scope.variables.get(name)
        if variable is not None:
            scope.flow.present.discard(variable)


def _body(scope: Scope, body: list[ast.stmt], node: ast.For | ast.While) -> tuple[list[tree.Statement], Loop]:
    loop, before = Loop(), scope.flow.copy()
    scope.loops.append(loop)
    found = statements.block(scope, body)
    scope.loops.pop()
    if not scope.diagnostics:
        place = node.test if isinstance(node, ast.While) else node.target
        tokens.refuse_changed(scope, before, [*loop.turns, scope.flow], place)
    return found, loop


def _behind(scope: Scope, end: Flow, loop: Loop) -> None:
    """Control behind the loop: its regular end, or a break."""
    for leaving in loop.exits:
        end = end.merge(leaving)
    scope.flow = end


def _refuse_else(node: ast.For | ast.While) -> None:
    if node.orelse:
        raise Refusal(node.orelse[0], "else behind a loop is not in the language")


def while_loop(scope: Scope, node: ast.While) -> list[tree.Statement]:
    """`while`: the test narrows its body and what is behind."""
    _refuse_else(node)
    _forget(scope, node.body)
    test = condition(scope, node.test)
    if test.always is False:
        raise Refusal(node.test, "this loop never runs")
    before = scope.flow.copy()
    scope.flow.present |= test.if_true
    body, loop = _body(scope, node.body, node)
    end = Flow.nowhere() if test.always else before
    end.present |= test.if_false
    _behind(scope, end, loop)
    return [tree.While(scope.at(node), test.tree, body)]


def for_loop(scope: Scope, node: ast.For) -> list[tree.Statement]:
    """`for` over a range, an array, or unrolled."""
    _refuse_else(node)
    source = node.iter
    if isinstance(source, ast.Call):
        function = static(scope, source.func)
        if function is unroll:
            return _unrolled(scope, node, source)
        if function is range:
            return _counted(scope, node, source)
        if function is enumerate:
            return _array(scope, node, source)
        if function is reversed:
            raise Refusal(source, "reversed() is not in the language", "write range(n - 1, -1, -1)")
    return _array(scope, node, None)


def _loop_variable(scope: Scope, target: ast.expr, type: Type) -> Variable:
    """The variable of a loop is its own: an earlier loop may have used the name for another type."""
    if not isinstance(target, ast.Name):
        raise Refusal(target, "the variable of a loop is a name")
    scope.poisoned.discard(target.id)
    known = scope.variables.get(target.id)
    if known is not None and known.type == type:
        return known
    if known is not None and known.parameter:
        raise Refusal(target, f"{known.name} is a parameter of type {known.type}")
    return declare(scope, target, type)


def _counted(scope: Scope, node: ast.For, source: ast.Call) -> list[tree.Statement]:
    arguments = source.args
    if not 1 <= len(arguments) <= 3 or source.keywords:
        raise Refusal(source, "range takes one to three values")
    step_node = arguments[2] if len(arguments) == 3 else None
    step = 1
    if step_node is not None:
        found = expressions.expression(scope, step_node)
        if not isinstance(found, tree.Constant) or found.type is not EXACT or found.value == 0:
            raise Refusal(step_node, "the step of a range is a constant, not 0")
        step = found.value
    at = scope.at(node)
    zero = ast.copy_location(ast.Constant(0), arguments[0])
    start_node, stop_node = (zero, arguments[0]) if len(arguments) == 1 else (arguments[0], arguments[1])
    start = expressions.expression(scope, start_node)
    stop: tree.Expression | None = expressions.expression(scope, stop_node, start.type)
    if step < 0 and isinstance(stop, tree.Constant) and stop.type is EXACT and stop.value == -1:
        start = settle(start, start_node)
        if isinstance(start.type, IntType) and not start.type.signed:
            stop = None
    if stop is not None:
        start, stop, _ = common(start, stop, (start_node, stop_node), source)
    type = integer_of(start.type)
    if type is None:
        raise Refusal(source, f"range goes over integers, this is {describe(start.type)}")
    if not 0 < abs(step) <= type.maximum:
        raise Refusal(source, f"a step of {step} does not fit {type}")
    start = coerce(start, type, start_node)
    variable = _loop_variable(scope, node.target, type)
    _forget(scope, node.body)
    before = scope.flow.copy()
    scope.flow.assigned.add(variable)
    body, loop = _body(scope, node.body, node)
    _behind(scope, before, loop)
    return [tree.Count(at, variable, start, stop, step, body)]


def _array(scope: Scope, node: ast.For, numbered: ast.Call | None) -> list[tree.Statement]:
    """Over an array; with enumerate() the index too."""
    target, source, counter_node = node.target, node.iter, None
    if numbered is not None:
        if len(numbered.args) != 1 or numbered.keywords:
            raise Refusal(numbered, "enumerate takes one array")
        if not isinstance(target, ast.Tuple) or len(target.elts) != 2:
            raise Refusal(target, "enumerate gives two values: for i, item in …")
        source, (counter_node, target) = numbered.args[0], target.elts
    at = scope.at(node)
    value = expressions.expression(scope, source)
    array = places.present(value, source) if isinstance(value.type, PointerType) else value.type
    if not isinstance(array, ArrayType):
        item = static(scope, source)
        if item is not MISSING:
            what = f"a Python {type(item).__name__}"
            raise Refusal(source, f"{what} cannot be looped over", "write unroll(…) around it")
        raise Refusal(source, f"{describe(value.type)} cannot be looped over")
    holder, index = scope.hidden(value.type, node), scope.hidden(_U64, node)
    held = tree.Read(value.type, at, holder)
    count: tree.Expression = (
        tree.Length(_U64, at, held) if array.count is None else tree.Constant(_U64, at, array.count)
    )
    window = isinstance(value, tree.Reference) and value.place.window
    window = window or (isinstance(array.element, LayoutType) and array.element.window)
    position = tree.Read(_U64, at, index)
    place = tree.Element(array.element, at, window, array.constant, held, position, array.count, False)
    element = places.contents(place)
    variable = _loop_variable(scope, target, element.type)
    counter = _loop_variable(scope, counter_node, _U64) if counter_node is not None else None
    _forget(scope, node.body)
    before = scope.flow.copy()
    scope.flow.assigned |= {variable} | ({counter} if counter is not None else set())
    body, loop = _body(scope, node.body, node)
    _behind(scope, before, loop)
    return [tree.Iterate(at, variable, index, counter, count, holder, value, element, body)]


def _unrolled(scope: Scope, node: ast.For, source: ast.Call) -> list[tree.Statement]:
    """The body once for each element; the names are constants in it."""
    if len(source.args) != 1 or source.keywords:
        raise Refusal(source, "unroll takes one sequence")
    sequence = constant(scope, source.args[0])
    if sequence is MISSING:
        raise Refusal(source.args[0], "unroll takes a sequence known at build time")
    try:
        elements = list(sequence)
    except TypeError:
        raise Refusal(source.args[0], f"a Python {type(sequence).__name__} is no sequence") from None
    if len(elements) > _UNROLLED_MAX:
        raise Refusal(source.args[0], f"{len(elements)} turns are too many to unroll")
    names = [name for name in ast.walk(node.target) if isinstance(name, ast.Name)]
    for name in names:
        if name.id in scope.variables:
            raise Refusal(name, f"{name.id} is a variable since line {scope.variables[name.id].at[0]}")
        refuse_shadow(scope, name)
    bodies: list[list[tree.Statement]] = []
    loop = Loop()
    scope.loops.append(loop)
    errors = len(scope.diagnostics)
    for element in elements:
        if not scope.flow.reachable:
            break
        loop.turns.clear()
        scope.constants.update(_bindings(node.target, element))
        bodies.append(statements.block(scope, node.body))
        for turn in loop.turns:
            scope.flow = scope.flow.merge(turn)
        if len(scope.diagnostics) > errors:
            break
    scope.loops.pop()
    for name in names:
        scope.constants.pop(name.id, None)
        scope.expired.add(name.id)
    _behind(scope, scope.flow, loop)
    return [tree.Unroll(scope.at(node), bodies)]


def _bindings(target: ast.expr, element: Any) -> dict[str, Any]:
    if isinstance(target, ast.Name):
        return {target.id: element}
    if isinstance(target, ast.Tuple | ast.List):
        try:
            parts = list(element)
        except TypeError:
            raise Refusal(target, f"{element!r} is no tuple") from None
        if len(parts) != len(target.elts):
            raise Refusal(target, f"{len(parts)} values for {len(target.elts)} names")
        found: dict[str, Any] = {}
        for part, value in zip(target.elts, parts, strict=True):
            found |= _bindings(part, value)
        return found
    raise Refusal(target, "the variables of a loop are names")
