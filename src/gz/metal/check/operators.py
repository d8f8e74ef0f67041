# SPDX-License-Identifier: Apache-2.0
"""Operators: which operands go together and in which width the work is done."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import gz.metal.check.expressions as expressions
from gz.bits.integers import i64, u64
from gz.bits.types import (
    BOOL,
    NONE,
    AddressType,
    BoolType,
    EnumType,
    IntType,
    PointerType,
    RegisterType,
    TupleType,
    Type,
)
from gz.metal import tree
from gz.metal.check.conditions import condition
from gz.metal.check.conversion import (
    EXACT,
    coerce,
    common,
    describe,
    integer_of,
    lower,
    number_type,
    shown,
    spelled,
)
from gz.metal.check.scope import Scope
from gz.metal.errors import Refusal

SYMBOLS: dict[type[ast.operator], str] = {
    ast.Add: "+",
    ast.Sub: "-",
    ast.Mult: "*",
    ast.FloorDiv: "//",
    ast.Mod: "%",
    ast.BitAnd: "&",
    ast.BitOr: "|",
    ast.BitXor: "^",
    ast.LShift: "<<",
    ast.RShift: ">>",
}

_REFUSED: dict[type[ast.operator], str] = {ast.Div: "/", ast.Pow: "**", ast.MatMult: "@"}

_UNARY: dict[type[ast.unaryop], str] = {ast.USub: "-", ast.Invert: "~", ast.UAdd: "+"}

_EXACTLY: dict[str, Callable[[int, int], int]] = {
    "+": int.__add__,
    "-": int.__sub__,
    "*": int.__mul__,
    "//": int.__floordiv__,
    "%": int.__mod__,
    "&": int.__and__,
    "|": int.__or__,
    "^": int.__xor__,
    "<<": int.__lshift__,
    ">>": int.__rshift__,
}

_BITWISE = frozenset("&|^")
_EXACT_BITS_MAX = 4096


def binary(scope: Scope, node: ast.BinOp, wanted: Type | None) -> tree.Expression:
    """Two operands and an operator; exact numbers take the width of the other one."""
    symbol = SYMBOLS.get(type(node.op))
    if symbol is None:
        raise refused_operator(node, node.op)
    hint = wanted if isinstance(wanted, IntType) else integer_of(wanted) if wanted is not None else None
    if symbol in ("<<", ">>"):
        return shift(scope, node, symbol, hint)
    if _pliable(node.left) and not _pliable(node.right):
        right = expressions.expression(scope, node.right, hint)
        left = expressions.expression(scope, node.left, _wider(hint, right.type))
    else:
        left = expressions.expression(scope, node.left, hint)
        right = expressions.expression(scope, node.right, _wider(hint, left.type))
    return combine(scope, symbol, left, right, (node.left, node.right), node)


def refused_operator(node: ast.AST, operator: ast.operator) -> Refusal:
    """The error for operators that the language lacks."""
    sign = _REFUSED[type(operator)]
    return Refusal(node, f"{sign} is not in the language", "integers are divided by //" * (sign == "/"))


def _pliable(node: ast.expr) -> bool:
    """Does it take its width from outside, as numbers and `1 << n` do?"""
    if isinstance(node, ast.BinOp):
        return _pliable(node.left) and (isinstance(node.op, ast.LShift | ast.RShift) or _pliable(node.right))
    if isinstance(node, ast.UnaryOp):
        return _pliable(node.operand)
    return isinstance(node, ast.Constant)


def _wider(hint: IntType | None, type: Type) -> Type | None:
    integer = integer_of(type)
    if hint is None or integer is None or hint.signed != integer.signed:
        return integer or hint
    return hint if hint.bits > integer.bits else integer


def combine(
    scope: Scope,
    symbol: str,
    left: tree.Expression,
    right: tree.Expression,
    nodes: tuple[ast.expr, ast.expr],
    node: ast.expr,
) -> tree.Expression:
    """`left symbol right` for operands that have been checked; not for shifts."""
    at = scope.at(node)
    if isinstance(left, tree.Constant) and isinstance(right, tree.Constant):
        folded = _exact(symbol, left, right, node)
        if folded is not None:
            return folded
    if isinstance(left.type, AddressType) or isinstance(right.type, AddressType):
        return _address(symbol, left, right, nodes, node, at)
    if isinstance(left.type, BoolType) and isinstance(right.type, BoolType) and symbol in _BITWISE:
        return tree.Binary(BOOL, at, symbol, left, right)
    for operand, part in zip((left, right), nodes, strict=True):
        if operand.type is not EXACT and integer_of(operand.type) is None:
            hint = f"write u64({shown(part)})" if isinstance(operand.type, BoolType) else ""
            raise Refusal(part, f"{describe(operand.type)} has no {symbol}", hint)
    if symbol in _BITWISE:
        left, right = _modular(left), _modular(right)
    first, second, type = common(left, right, nodes, node)
    if symbol in ("//", "%") and isinstance(second, tree.Constant) and second.value == 0:
        raise Refusal(nodes[1], "division by zero")
    return tree.Binary(type, at, symbol, first, second)


def _modular(value: tree.Expression) -> tree.Expression:
    """In bit operations a negative constant is a pattern of ones, as in `x & ~0xFFF` or `x & -8`."""
    if isinstance(value, tree.Constant) and value.type is EXACT:
        return tree.Constant(EXACT, value.at, value.value, modular=True)
    return value


def _exact(symbol: str, left: tree.Constant, right: tree.Constant, node: ast.expr) -> tree.Constant | None:
    exact = (left.type is EXACT or isinstance(left.type, RegisterType)) and (
        right.type is EXACT or isinstance(right.type, RegisterType)
    )
    if not exact or EXACT not in (left.type, right.type):
        return None
    if symbol == "<<" and (right.value > _EXACT_BITS_MAX or left.value.bit_length() > _EXACT_BITS_MAX):
        raise Refusal(node, f"an exact number of more than {_EXACT_BITS_MAX} bits")
    try:
        number = _EXACTLY[symbol](left.value, right.value)
    except (ZeroDivisionError, ValueError) as error:
        raise Refusal(node, str(error)) from None
    if left.type is not EXACT or right.type is not EXACT:
        return None
    return tree.Constant(EXACT, left.at, number, left.modular or right.modular)


def _address(
    symbol: str,
    left: tree.Expression,
    right: tree.Expression,
    nodes: tuple[ast.expr, ast.expr],
    node: ast.expr,
    at: tree.Position,
) -> tree.Expression:
    """address ± integer is an address, address - address of the same space a u64."""
    word: Any = u64
    if isinstance(left.type, AddressType) and isinstance(right.type, AddressType):
        if symbol == "-" and left.type is right.type:
            a, b = tree.Convert(word, left.at, left), tree.Convert(word, right.at, right)
            return tree.Binary(word, at, "-", a, b)
        if left.type is not right.type:
            raise Refusal(node, f"{left.type} and {right.type} are addresses of different spaces")
    elif symbol == "+" or (symbol == "-" and isinstance(left.type, AddressType)):
        address, offset, part = (left, right, nodes[1])
        if isinstance(right.type, AddressType):
            address, offset, part = right, left, nodes[0]
        negative = isinstance(offset, tree.Constant) and offset.type is EXACT and offset.value < 0
        integer = integer_of(offset.type)
        if negative or (integer is not None and integer.signed):
            amount = tree.Convert(word, offset.at, coerce(offset, i64, part))  # pyright: ignore[reportArgumentType]
        else:
            amount = coerce(offset, word, part)
        base = tree.Convert(word, address.at, address)
        return tree.Convert(address.type, at, tree.Binary(word, at, symbol, base, amount))
    type = left.type if isinstance(left.type, AddressType) else right.type
    raise Refusal(
        node,
        f"{type} has no {symbol}: address ± integer and address - address are all",
        "convert with u64(…)",
    )


def shift(scope: Scope, node: ast.BinOp, symbol: str, hint: Type | None) -> tree.Expression:
    """`<<` and `>>`: the result has the type of what is shifted."""
    left = expressions.expression(scope, node.left, hint)
    right = expressions.expression(scope, node.right)
    return combine_shift(scope, symbol, left, right, (node.left, node.right), node, hint)


def combine_shift(
    scope: Scope,
    symbol: str,
    left: tree.Expression,
    right: tree.Expression,
    nodes: tuple[ast.expr, ast.expr],
    node: ast.expr,
    hint: Type | None,
) -> tree.Expression:
    """The same with operands that are checked already."""
    at = scope.at(node)
    if isinstance(left, tree.Constant) and isinstance(right, tree.Constant):
        folded = _exact(symbol, left, right, node)
        if folded is not None:
            return folded
    if left.type is EXACT:
        word: Any = u64
        left = coerce(left, hint if isinstance(hint, IntType) else word, nodes[0])
    type = integer_of(left.type)
    if type is None:
        raise Refusal(nodes[0], f"{describe(left.type)} has no {symbol}")
    left = coerce(left, type, nodes[0])
    if right.type is EXACT and isinstance(right, tree.Constant):
        if not 0 <= right.value < type.bits:
            raise Refusal(nodes[1], f"a shift of {type} by {spelled(right.value)}")
        right = coerce(right, u64, nodes[1])  # pyright: ignore[reportArgumentType]
    amount = integer_of(right.type)
    if amount is None:
        raise Refusal(nodes[1], f"{describe(right.type)} cannot be a shift's amount")
    if amount.signed:
        raise Refusal(nodes[1], f"the amount of a shift is unsigned, this is {amount}", f"write u64({shown(nodes[1])})")
    return tree.Binary(type, at, symbol, left, coerce(right, amount, nodes[1]))


def unary(scope: Scope, node: ast.UnaryOp, wanted: Type | None) -> tree.Expression:
    """`-`, `~`, `+` and `not`."""
    at = scope.at(node)
    if isinstance(node.op, ast.Not):
        return condition(scope, node).tree
    operand = expressions.expression(scope, node.operand, wanted)
    symbol = _UNARY[type(node.op)]
    if isinstance(operand, tree.Constant) and operand.type is EXACT:
        if symbol == "~":
            return tree.Constant(EXACT, at, ~operand.value, modular=True)
        return tree.Constant(EXACT, at, -operand.value if symbol == "-" else operand.value, operand.modular)
    type_ = integer_of(operand.type)
    if type_ is None:
        hint = "write not" if isinstance(operand.type, BoolType) else ""
        raise Refusal(node, f"{describe(operand.type)} has no {symbol}", hint)
    operand = lower(operand, node.operand)
    if symbol == "+":
        return operand
    if isinstance(operand, tree.Constant) and symbol == "~":
        return tree.Constant(type_, at, type_.wrap(~operand.value))
    return tree.Unary(type_, at, symbol, operand)


_COMPARISONS: dict[type[ast.cmpop], str] = {
    ast.Eq: "==",
    ast.NotEq: "!=",
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
}

_EXACT_COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    "==": int.__eq__,
    "!=": int.__ne__,
    "<": int.__lt__,
    "<=": int.__le__,
    ">": int.__gt__,
    ">=": int.__ge__,
}


def compare(scope: Scope, node: ast.Compare, wanted: Type | None) -> tree.Expression:
    """A comparison or a chain of them; all operands get one type."""
    if any(isinstance(op, ast.Is | ast.IsNot) for op in node.ops):
        return _identity(scope, node)
    symbols = [_COMPARISONS.get(type(op), "") for op in node.ops]
    if "" in symbols:
        raise Refusal(node, "`in` is not in the language", "compare, or loop with unroll()")
    nodes = [node.left, *node.comparators]
    pliable = [_pliable(part) for part in nodes]
    operands: list[tree.Expression | None] = [None] * len(nodes)
    hint: Type | None = None
    for late in (False, True):
        for index, part in enumerate(nodes):
            if pliable[index] is late:
                found = expressions.expression(scope, part, hint)
                operands[index] = found
                hint = _wider(hint if isinstance(hint, IntType) else None, found.type) or hint
    values = [operand for operand in operands if operand is not None]
    if all(isinstance(operand, tree.Constant) and operand.type is EXACT for operand in values):
        numbers = [operand.value for operand in values if isinstance(operand, tree.Constant)]
        held = all(
            _EXACT_COMPARISONS[symbol](a, b) for symbol, a, b in zip(symbols, numbers, numbers[1:], strict=False)
        )
        return tree.truth(held, scope.at(node))
    return tree.Compare(BOOL, scope.at(node), symbols, _comparable(values, nodes, symbols, node))


def _comparable(
    values: list[tree.Expression], nodes: list[ast.expr], symbols: list[str], node: ast.expr
) -> list[tree.Expression]:
    """The operands as values of one type."""
    type = _compared_type(values, nodes, node)
    if isinstance(type, BoolType) and any(symbol not in ("==", "!=") for symbol in symbols):
        raise Refusal(node, "truth values have no order")
    found = [coerce(operand, type, part) for operand, part in zip(values, nodes, strict=True)]
    if isinstance(type, IntType):
        for index, symbol in enumerate(symbols):
            _refuse_foregone(type, symbol, found[index : index + 2], nodes[index : index + 2])
    return found


_MIRRORED = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


def _refuse_foregone(type: IntType, symbol: str, values: list[tree.Expression], nodes: list[ast.expr]) -> None:
    """A comparison with the end of a type's range that comes out the same for all values; constants with names
    choose at build time."""
    for value, part, other, operator in (
        (values[1], nodes[1], nodes[0], symbol),
        (values[0], nodes[0], nodes[1], _MIRRORED.get(symbol, symbol)),
    ):
        if isinstance(value, tree.Constant) and not any(isinstance(inner, ast.Name) for inner in ast.walk(part)):
            for end, always, never in ((type.minimum, ">=", "<"), (type.maximum, "<=", ">")):
                if value.value == end and operator in (always, never):
                    hint = f"{shown(other)} goes from {type.minimum} to {type.maximum:#x}"
                    raise Refusal(part, f"this comparison is always {operator == always}", hint)


def _compared_type(values: list[tree.Expression], nodes: list[ast.expr], node: ast.expr) -> Type:
    found: Type | None = None
    enums = {operand.type for operand in values if isinstance(operand.type, EnumType)}
    if len(enums) > 1:
        raise Refusal(node, f"{' and '.join(sorted(map(str, enums)))} are different enumerations")
    flexible = [operand for operand in values if isinstance(operand, tree.Constant) and operand.type in enums]
    fixed = [operand for operand in values if operand.type is not EXACT and operand not in flexible]
    for operand in fixed or flexible:
        part = nodes[values.index(operand)]
        if isinstance(operand.type, PointerType):
            raise Refusal(part, "references are compared with `is`")
        if isinstance(operand.type, TupleType) or operand.type is NONE:
            raise Refusal(part, f"{describe(operand.type)} cannot be compared")
        type = number_type(operand.type)
        if found is None or found is type:
            found = type
        elif not (isinstance(found, IntType) and isinstance(type, IntType)):
            raise Refusal(node, f"{found} and {describe(operand.type)} cannot be compared")
        elif found.signed != type.signed:
            raise Refusal(node, f"{found} and {type} differ in sign", f"convert one: {found}(…) or {type}(…)")
        elif type.bits > found.bits:
            found = type
    assert found is not None
    return found


def _identity(scope: Scope, node: ast.Compare) -> tree.Expression:
    if len(node.ops) != 1:
        raise Refusal(node, "`is` does not go into chains of comparisons")
    right = node.comparators[0]
    if isinstance(right, ast.Constant) and right.value is None:
        return condition(scope, node).tree
    a, b = expressions.expression(scope, node.left), expressions.expression(scope, right)
    for operand, part in ((a, node.left), (b, right)):
        if not isinstance(operand.type, PointerType):
            raise Refusal(part, f"`is` compares references, this is {describe(operand.type)}", "write ==")
    assert isinstance(a.type, PointerType) and isinstance(b.type, PointerType)
    if a.type.target != b.type.target:
        raise Refusal(node, f"a {a.type} is never a {b.type}")
    symbol = "==" if isinstance(node.ops[0], ast.Is) else "!="
    return tree.Compare(BOOL, scope.at(node), [symbol], [a, b])


def logic(scope: Scope, node: ast.BoolOp, wanted: Type | None) -> tree.Expression:
    """`and` and `or` as a value."""
    return condition(scope, node).tree
