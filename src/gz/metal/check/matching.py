# SPDX-License-Identifier: Apache-2.0
"""match on enumerations and integers."""

from __future__ import annotations

import ast

import gz.metal.check.expressions as expressions
import gz.metal.check.statements as statements
from gz.bits.types import BoolType, EnumType, IntType
from gz.metal import tree
from gz.metal.check.conditions import condition
from gz.metal.check.conversion import EXACT, coerce, describe, integer_of, shown
from gz.metal.check.scope import MISSING, Flow, Scope
from gz.metal.check.static import static
from gz.metal.errors import Refusal


def match(scope: Scope, node: ast.Match) -> list[tree.Statement]:
    """`match` on an enumeration or integer: every value once, none of an enumeration missing."""
    subject = expressions.typed(scope, node.subject)
    kind = subject.type
    base = integer_of(kind)
    if base is None or isinstance(kind, BoolType):
        raise Refusal(node.subject, f"match is on enumerations and integers, this is {describe(kind)}")
    before = scope.flow
    after = Flow.nowhere()
    cases: list[tree.Case] = []
    default: list[tree.Statement] | None = None
    seen: set[int] = set()
    refused = False
    for case in node.cases:
        if default is not None:
            scope.report(Refusal(case.pattern, "control never comes here: the case above takes all"), node)
            break
        scope.flow = before.copy()
        try:
            values = _values(scope, case.pattern, kind, base)
            guard = condition(scope, case.guard) if case.guard is not None else None
        except Refusal as refusal:
            scope.report(refusal, node)
            refused = True
            continue
        if guard is not None:
            scope.flow.present |= guard.if_true
        body = statements.block(scope, case.body)
        after = after.merge(scope.flow)
        if values is None:
            if guard is not None:
                raise Refusal(case.pattern, "`case _` takes no `if`", "write an if inside")
            default = body
            continue
        for position, value in enumerate(values):
            if value in seen or value in values[:position]:
                scope.report(Refusal(case.pattern, f"{_name(kind, value)} has been dealt with above"), node)
        if guard is None:
            seen.update(values)
        cases.append(tree.Case(values, guard.tree if guard is not None else None, body))
    if default is None:
        if isinstance(kind, EnumType):
            missing = [member.name for member in kind.enum if int(member) not in seen]
            if missing:
                after = after.merge(before)
            if missing and not refused:
                scope.flow = after
                raise Refusal(
                    node.subject,
                    f"cases of {kind} are missing: {', '.join(missing)}",
                    "`case _` takes the rest",
                )
        else:
            default = []
            after = after.merge(before)
    scope.flow = after
    return [tree.Switch(scope.at(node), coerce(subject, base, node.subject), cases, default)]


def _name(kind: object, value: int) -> str:
    if isinstance(kind, EnumType) and value in kind.enum._value2member_map_:
        return kind.enum(value).name
    return str(value)


def _values(scope: Scope, pattern: ast.pattern, kind: object, base: IntType) -> list[int] | None:
    """The numbers a pattern takes; None: everything."""
    if isinstance(pattern, ast.MatchAs) and pattern.pattern is None:
        if pattern.name is None:
            return None
        raise Refusal(
            pattern,
            f"`case {pattern.name}` would take everything",
            "write case _, or the constant's full name",
        )
    if isinstance(pattern, ast.MatchOr):
        found: list[int] = []
        for part in pattern.patterns:
            values = _values(scope, part, kind, base)
            if values is None:
                raise Refusal(part, "`_` does not go into alternatives")
            found.extend(values)
        return found
    if not isinstance(pattern, ast.MatchValue):
        raise Refusal(pattern, "a case is a constant, alternatives of these, or _")
    item = static(scope, pattern.value)
    if isinstance(item, bool) or (item is not MISSING and not isinstance(item, int)):
        raise Refusal(pattern, f"{shown(pattern.value)} is no number")
    value = expressions.expression(scope, pattern.value, base)
    if not isinstance(value, tree.Constant):
        raise Refusal(pattern, "a case is a constant")
    if isinstance(kind, EnumType) and value.type != kind:
        known = [member for member in kind.enum if int(member) == value.value]
        hint = f"write {kind}.{known[0].name}" if known else ""
        raise Refusal(pattern, f"{shown(pattern.value)} is no {kind}", hint)
    if value.type is EXACT or isinstance(value.type, EnumType):
        return [int(getattr(coerce(value, base, pattern), "value"))]  # noqa: B009
    return [value.value]
