# SPDX-License-Identifier: Apache-2.0
"""Conditions and what they tell about None."""

from __future__ import annotations

import ast
from dataclasses import dataclass

import gz.metal.check.expressions as expressions
from gz.bits.types import BOOL, PointerType
from gz.metal import tree
from gz.metal.check.conversion import require_bool
from gz.metal.check.scope import Scope
from gz.metal.errors import Refusal
from gz.metal.tree import Variable

_NOTHING: frozenset[Variable] = frozenset()


@dataclass(frozen=True)
class Condition:
    """`if_true`, `if_false`: variables that are not None when the condition holds, or does not."""

    tree: tree.Expression
    if_true: frozenset[Variable] = _NOTHING
    if_false: frozenset[Variable] = _NOTHING

    @property
    def always(self) -> bool | None:
        """Its value, if it is a constant."""
        return bool(self.tree.value) if isinstance(self.tree, tree.Constant) else None


def condition(scope: Scope, node: ast.expr) -> Condition:
    """An expression as a condition, and what is not None on either way."""
    if isinstance(node, ast.BoolOp):
        return _logic(scope, node)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        inner = condition(scope, node.operand)
        if inner.always is not None:
            return Condition(tree.truth(not inner.always, scope.at(node)))
        return Condition(tree.Not(BOOL, scope.at(node), inner.tree), inner.if_false, inner.if_true)
    if isinstance(node, ast.Compare) and _compares_with_none(node):
        return _none_test(scope, node, node.left, isinstance(node.ops[0], ast.Is))
    found = expressions.expression(scope, node)
    if isinstance(found.type, PointerType):
        if not found.type.nullable:
            raise Refusal(node, f"a {found.type} is always there", "only `T | None` can be tested")
        variables = _variables(found)
        absent = tree.IsNone(BOOL, scope.at(node), found)
        return Condition(tree.Not(BOOL, scope.at(node), absent), variables)
    return Condition(require_bool(found, node))


def _compares_with_none(node: ast.Compare) -> bool:
    other = node.comparators[0]
    single = len(node.ops) == 1 and isinstance(node.ops[0], ast.Is | ast.IsNot)
    return single and isinstance(other, ast.Constant) and other.value is None


def _variables(found: tree.Expression) -> frozenset[Variable]:
    return frozenset([found.variable]) if isinstance(found, tree.Read) else _NOTHING


def _none_test(scope: Scope, node: ast.Compare, operand: ast.expr, positive: bool) -> Condition:
    found = expressions.expression(scope, operand)
    if not isinstance(found.type, PointerType):
        raise Refusal(node, f"{found.type} is never None", "only references `T | None` can be")
    if not found.type.nullable:
        raise Refusal(node, f"a {found.type} is never None here", "its type has no `| None`, or it was tested before")
    variables = _variables(found)
    absent = tree.IsNone(BOOL, scope.at(node), found)
    if positive:
        return Condition(absent, _NOTHING, variables)
    return Condition(tree.Not(BOOL, scope.at(node), absent), variables)


def _logic(scope: Scope, node: ast.BoolOp) -> Condition:
    conjunction = isinstance(node.op, ast.And)
    before = scope.flow
    scope.flow = before.copy()
    parts: list[Condition] = []
    known: frozenset[Variable] = _NOTHING
    common: frozenset[Variable] | None = None
    for operand in node.values:
        part = condition(scope, operand)
        parts.append(part)
        known |= part.if_true if conjunction else part.if_false
        other = part.if_false if conjunction else part.if_true
        common = other if common is None else common & other
        scope.flow.present |= known
    scope.flow = before
    found = tree.Logic(BOOL, scope.at(node), "and" if conjunction else "or", [part.tree for part in parts])
    shared = common or _NOTHING
    return Condition(found, known, shared) if conjunction else Condition(found, shared, known)
