# SPDX-License-Identifier: Apache-2.0
"""Lock tokens: who holds a `Held[T]`, and that each is given back exactly once on every way."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from gz.bits.types import NONE, HeldType
from gz.metal import tree
from gz.metal.check.scope import Flow, Scope
from gz.metal.errors import Refusal
from gz.metal.tree import Signature, Variable


def made(scope: Scope, value: tree.Expression, node: ast.Call) -> tree.Expression:
    """A call gave a token: the statement has to keep it."""
    if isinstance(value.type, HeldType):
        scope.loose.append((value, node))
    return value


def keep(scope: Scope, variable: Variable, value: tree.Expression, node: ast.AST) -> None:
    """A token goes into a local."""
    if not isinstance(variable.type, HeldType):
        return
    before = set(scope.flow.maybe_held)
    scope.flow.held.add(variable)
    scope.flow.maybe_held.add(variable)
    _take(scope, value, node, "a token is not copied", "it stays with the name that it was first given to")
    if variable in before or variable.parameter:
        raise Refusal(node, f"{variable.name} still holds a {variable.type}", "release it first")


def _take(scope: Scope, value: tree.Expression, node: ast.AST, message: str, hint: str) -> None:
    for index, (loose, _) in enumerate(scope.loose):
        if loose is value:
            del scope.loose[index]
            return
    raise Refusal(node, message, hint)


def refuse_loose(scope: Scope) -> None:
    """At the end of a statement: every new token has found its name."""
    if scope.loose:
        value, node = scope.loose[0]
        scope.loose.clear()
        raise Refusal(node, f"this {value.type} is not kept: nobody could release it", "assign it to a local")


def read(scope: Scope, variable: Variable, node: ast.Name) -> None:
    """Refuse the use of a token that was released."""
    if not isinstance(variable.type, HeldType) or variable.parameter or variable in scope.flow.held:
        return
    how = "may have been" if variable in scope.flow.maybe_held else "was"
    raise Refusal(node, f"{variable.name} {how} released above")


def release(scope: Scope, signature: Signature, arguments: Iterable[tuple[tree.Expression, ast.AST]]) -> None:
    """A call of a @releases function: its tokens are gone."""
    if "releases" not in signature.marks:
        return
    for value, node in arguments:
        if not isinstance(value.type, HeldType):
            continue
        variable = value.variable if isinstance(value, tree.Read) else None
        if variable is None:
            raise Refusal(node, "only a local that holds a token releases it", "assign it to a local first")
        if variable.parameter and "releases" not in scope.signature.marks:
            hint = f"mark {scope.signature.function.__name__} @releases, or release it there"
            raise Refusal(node, f"{variable.name} is held by the caller", hint)
        scope.flow.held.discard(variable)
        scope.flow.maybe_held.discard(variable)


def give(scope: Scope, value: tree.Expression, node: ast.expr) -> None:
    """`return token`."""
    if not isinstance(value.type, HeldType):
        return
    if isinstance(value, tree.Read):
        if value.variable.parameter:
            raise Refusal(node, f"{value.variable.name} is held by the caller", "who calls has the token already")
        scope.flow.held.discard(value.variable)
        scope.flow.maybe_held.discard(value.variable)
        return
    _take(scope, value, node, "a token is returned by name, or by the call that gives it", "")


def refuse_kept(scope: Scope, node: ast.AST, where: str) -> None:
    """Control leaves the function here: nothing is held any more."""
    for variable in scope.flow.maybe_held:
        how = "is still" if variable in scope.flow.held else "may still be"
        raise Refusal(node, f"{variable.name} {how} held {where}", f"it is a {variable.type}: release it first")


def refuse_changed(scope: Scope, before: Flow, turns: Iterable[Flow], node: ast.AST) -> None:
    """The next turn of a loop finds the tokens as the first one did."""
    for turn in turns:
        if not turn.reachable:
            continue
        for variable in turn.maybe_held - before.held:
            raise Refusal(node, f"{variable.name} is still held at the end of the loop's turn", "release it there")
        for variable in before.held - turn.held:
            raise Refusal(node, f"{variable.name} is released in the loop, whose next turn would need it")


def check_releases(signature: Signature) -> str:
    """What is wrong with a function marked @releases; empty if nothing."""
    if "releases" not in signature.marks:
        return ""
    name = signature.function.__name__
    if not any(isinstance(parameter.type, HeldType) for parameter in signature.parameters):
        return f"{name} is @releases: it takes a Held[…]"
    return f"{name} is @releases: it gives nothing" if signature.result is not NONE else ""
