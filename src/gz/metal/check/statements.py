# SPDX-License-Identifier: Apache-2.0
"""Statements: from syntax to typed trees, one error per statement."""

from __future__ import annotations

import ast
from collections.abc import Callable, Sequence
from typing import Any

import gz.metal.check.assignments as assignments
import gz.metal.check.expressions as expressions
import gz.metal.check.intrinsics as intrinsics
import gz.metal.check.loops as loops
import gz.metal.check.matching as matching
from gz.bits.intrinsic import Intrinsic
from gz.bits.types import NEVER, NONE
from gz.metal import tree
from gz.metal.check import tokens
from gz.metal.check.conditions import Condition, condition
from gz.metal.check.conversion import shown
from gz.metal.check.scope import Flow, Scope
from gz.metal.check.static import static
from gz.metal.check.texts import pieces
from gz.metal.errors import Poisoned, Refusal


def block(scope: Scope, body: Sequence[ast.stmt]) -> list[tree.Statement]:
    """Check statements in order; those behind the end of control are refused."""
    found: list[tree.Statement] = []
    for index, node in enumerate(body):
        if not scope.flow.reachable:
            if not any(isinstance(other, ast.FunctionDef) for other in body[:index]):
                scope.report(Refusal(node, "control never comes here"), node)
            break
        try:
            found.extend(statement(scope, node))
        except Refusal as refusal:
            scope.report(refusal, node)
            _poison(scope, node)
        except Poisoned:
            _poison(scope, node)
    return found


def _poison(scope: Scope, node: ast.stmt) -> None:
    """What a refused statement would have bound is not complained about again."""
    scope.loose.clear()
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
            variable = scope.variables.get(part.id)
            if variable is None:
                scope.poisoned.add(part.id)
            else:
                scope.flow.assigned.add(variable)
                scope.flow.held.add(variable)
        if isinstance(part, ast.Name) and part.id in scope.variables:
            scope.flow.present.add(scope.variables[part.id])


def statement(scope: Scope, node: ast.stmt) -> list[tree.Statement]:
    """One statement; Refusal for the first error in it."""
    rule = _RULES.get(type(node))
    if rule is None:
        name = _NAMES.get(type(node), type(node).__name__)
        raise Refusal(node, f"{name} is not in the language", _HINTS.get(type(node), ""))
    found = rule(scope, node)
    tokens.refuse_loose(scope)
    return found


def _expression(scope: Scope, node: ast.Expr) -> list[tree.Statement]:
    value = node.value
    if isinstance(value, ast.Constant) and (isinstance(value.value, str) or value.value is ...):
        if value.value is ...:
            raise Refusal(value, "`...` is the body of @extern functions only", "write pass")
        return []
    if not isinstance(value, ast.Call):
        if isinstance(value, ast.Yield | ast.YieldFrom | ast.Await | ast.NamedExpr):
            expressions.expression(scope, value)
        if isinstance(value, ast.Compare):
            raise Refusal(value, "the result of this comparison is not used", "an assignment is written with =")
        raise Refusal(value, "this expression does nothing")
    function = static(scope, value.func)
    if isinstance(function, Intrinsic):
        found = _intrinsic(scope, value, function)
        if found is not None:
            return found
    result = expressions.expression(scope, value)
    if isinstance(result, tree.Constant):
        raise Refusal(value, "this expression does nothing")
    if not isinstance(result, tree.Call | tree.CallTable | tree.Atomic | tree.Instruction | tree.Load):
        raise Refusal(value, f"the result of {shown(value.func)} is not used")
    if result.type is NEVER:
        scope.flow = Flow.nowhere()
    return [tree.Evaluate(scope.at(node), result)]


def _intrinsic(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> list[tree.Statement] | None:
    """Intrinsics without a value."""
    rule = _INTRINSICS.get(intrinsic.kind)
    if rule is None:
        return None
    count = len(intrinsic.parameters)
    if len(node.args) != count or node.keywords:
        raise Refusal(node, f"{intrinsic.name} takes {count} argument{'s' * (count != 1)}")
    return [rule(scope, node, intrinsic)]


def _log(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Statement:
    return tree.Log(scope.at(node), pieces(scope, node.args[0]))


def _panic(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Statement:
    found = tree.Panic(scope.at(node), pieces(scope, node.args[0]))
    scope.flow = Flow.nowhere()
    return found


def _trap(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Statement:
    scope.flow = Flow.nowhere()
    return tree.Trap(scope.at(node))


_INTRINSICS: dict[str, Callable[[Scope, ast.Call, Intrinsic], tree.Statement]] = {
    "write_once": intrinsics.store,
    "store_release": intrinsics.store,
    "poke": intrinsics.poke,
    "copy": lambda scope, node, intrinsic: intrinsics.copy(scope, node),
    "log": _log,
    "panic": _panic,
    "trap": _trap,
}


def refuse_constant(test: Condition, node: ast.expr) -> None:
    """Refuse a condition that is always the same and names no constant."""
    if test.always is not None and not _is_build_time_choice(node):
        raise Refusal(node, f"this condition is always {test.always}")


def _is_build_time_choice(node: ast.expr) -> bool:
    """Conditions that name constants choose at build time, which is wanted."""
    return any(isinstance(part, ast.Name) for part in ast.walk(node))


def _if(scope: Scope, node: ast.If) -> list[tree.Statement]:
    test = condition(scope, node.test)
    refuse_constant(test, node.test)
    if test.always is not None:
        return block(scope, node.body if test.always else node.orelse)
    before = scope.flow
    scope.flow = before.copy()
    scope.flow.present |= test.if_true
    yes = block(scope, node.body)
    after = scope.flow
    scope.flow = before.copy()
    scope.flow.present |= test.if_false
    no = block(scope, node.orelse)
    scope.flow = after.merge(scope.flow)
    return [tree.If(scope.at(node), test.tree, yes, no)]


def _assert(scope: Scope, node: ast.Assert) -> list[tree.Statement]:
    test = condition(scope, node.test)
    text = pieces(scope, node.msg) if node.msg is not None else [tree.Piece(f"not so: {ast.unparse(node.test)}")]
    if test.always is True and _is_build_time_choice(node.test):
        return []
    if test.always is False:
        raise Refusal(node.test, "this never holds")
    refuse_constant(test, node.test)
    scope.flow.present |= test.if_true
    return [tree.Assert(scope.at(node), test.tree, text)]


def _return(scope: Scope, node: ast.Return) -> list[tree.Statement]:
    result = scope.signature.result
    name = scope.signature.function.__name__
    if result is NEVER:
        raise Refusal(node, f"{name} does not return: it is declared NoReturn")
    value: tree.Expression | None = None
    if node.value is None or (isinstance(node.value, ast.Constant) and node.value.value is None and result is NONE):
        if result is not NONE:
            raise Refusal(node, f"{name} gives a {result}: return one")
    elif result is NONE:
        raise Refusal(node.value, f"{name} gives nothing", "annotate the result: -> …")
    else:
        value = expressions.value(scope, node.value, result)
        tokens.give(scope, value, node.value)
    if not scope.diagnostics:
        tokens.refuse_kept(scope, node, "at this return")
    scope.flow = Flow.nowhere()
    return [tree.Return(scope.at(node), value)]


def _leave_loop(scope: Scope, node: ast.Break | ast.Continue) -> list[tree.Statement]:
    stop = isinstance(node, ast.Break)
    if not scope.loops:
        raise Refusal(node, f"{'break' if stop else 'continue'} outside of a loop")
    (scope.loops[-1].exits if stop else scope.loops[-1].turns).append(scope.flow)
    scope.flow = Flow.nowhere()
    return [tree.Break(scope.at(node)) if stop else tree.Continue(scope.at(node))]


def _bare_annotation(scope: Scope, node: ast.Global | ast.Nonlocal) -> list[tree.Statement]:
    raise Refusal(node, "module-level numbers are constants", "put what changes into storage(…)")


_RULES: dict[type[ast.stmt], Callable[[Scope, Any], list[tree.Statement]]] = {
    ast.Expr: _expression,
    ast.If: _if,
    ast.Assert: _assert,
    ast.Return: _return,
    ast.Break: _leave_loop,
    ast.Continue: _leave_loop,
    ast.Pass: lambda scope, node: [],
    ast.Global: _bare_annotation,
    ast.Nonlocal: _bare_annotation,
    ast.Assign: lambda scope, node: assignments.assign(scope, node),
    ast.AnnAssign: lambda scope, node: assignments.annotated(scope, node),
    ast.AugAssign: lambda scope, node: assignments.augmented(scope, node),
    ast.While: lambda scope, node: loops.while_loop(scope, node),
    ast.For: lambda scope, node: loops.for_loop(scope, node),
    ast.Match: lambda scope, node: matching.match(scope, node),
}

_NAMES: dict[type[ast.stmt], str] = {
    ast.FunctionDef: "a function inside a function",
    ast.ClassDef: "a class inside a function",
    ast.Import: "import inside a function",
    ast.ImportFrom: "import inside a function",
    ast.Try: "try",
    ast.TryStar: "try",
    ast.Raise: "raise",
    ast.With: "with",
    ast.Delete: "del",
    ast.AsyncFor: "async",
    ast.AsyncWith: "async",
    ast.AsyncFunctionDef: "async",
}

_HINTS: dict[type[ast.stmt], str] = {
    ast.Raise: 'panic(f"…") gives up; errors are results',
    ast.Try: "there are no exceptions; errors are results",
    ast.Import: "import at the module's top level: import gz.core.x as x",
    ast.ImportFrom: "import at the module's top level: import gz.core.x as x",
}
