# SPDX-License-Identifier: Apache-2.0
"""Which value goes where: exact numbers, widening, references, None."""

from __future__ import annotations

import ast
from dataclasses import dataclass

from gz.bits.integers import i64, u64
from gz.bits.types import (
    BOOL,
    NEVER,
    NONE,
    AddressType,
    ArrayType,
    BoolType,
    EnumType,
    HeldType,
    IntType,
    PointerType,
    RegisterType,
    TupleType,
    Type,
)
from gz.metal import tree
from gz.metal.errors import Refusal


@dataclass(frozen=True, eq=False)
class ExactType(Type):
    """A number that has no width yet."""

    def __str__(self) -> str:
        return "an exact number"


EXACT = ExactType()


def integer_of(type: Type) -> IntType | None:
    """The integer type that a value of the type converts to by itself."""
    if isinstance(type, IntType):
        return type
    if isinstance(type, EnumType | RegisterType):
        return type.base
    return None


def shown(node: ast.AST) -> str:
    """Syntax as messages quote it."""
    text = ast.unparse(node)
    return text if len(text) <= 40 else "…"


def may_be_none(node: ast.AST) -> Refusal:
    """The error of a reference used before it was tested."""
    hint = "test it first: if … is not None"
    if not isinstance(node, ast.Name):
        hint = "put it into a local and test that"
    return Refusal(node, f"{shown(node)} may be None", hint)


def coerce(value: tree.Expression, target: Type, node: ast.AST) -> tree.Expression:
    """The value as one of the target type; refused if that has to be written."""
    source = value.type
    if source is target or source == target:
        return value
    if isinstance(value, tree.Constant) and isinstance(source, ExactType | EnumType):
        fitted = _fit(value, target, node)
        if fitted is not None:
            return fitted
    if source is NONE and isinstance(target, PointerType):
        if target.nullable:
            return tree.Constant(target, value.at, 0)
        raise Refusal(node, f"None is no {target}", f"the type would be {target} | None")
    integer = integer_of(source)
    if isinstance(target, IntType) and integer is not None:
        return _widen(value, integer, target, node)
    if isinstance(source, PointerType):
        reference = _reference(value, source, target, node)
        if reference is not None:
            return reference
    if isinstance(target, TupleType) and isinstance(value, tree.Tuple):
        return _tuple(value, target, node)
    if source is NEVER:
        return value
    what = describe(source)
    if isinstance(value, tree.Constant) and source in (EXACT, NONE):
        what = spelled(value.value) if source is EXACT else "None"
    raise Refusal(node, f"{what} is no {target}", _hint(source, target, node))


def describe(type: Type) -> str:
    """A type as messages name it."""
    return "a call without a result" if type is NONE else str(type)


def _hint(source: Type, target: Type, node: ast.AST) -> str:
    if isinstance(target, BoolType) and integer_of(source) is not None:
        return f"compare: {shown(node)} != 0"
    if isinstance(target, BoolType) and source is EXACT:
        return "write True or False"
    scalar = integer_of(source) is not None or isinstance(source, BoolType | AddressType)
    if isinstance(target, IntType | AddressType | RegisterType | EnumType) and scalar:
        if isinstance(target, AddressType | EnumType) and isinstance(source, AddressType):
            return "addresses of different spaces do not mix"
        return f"write {target}({shown(node)})"
    return ""


def _fit(value: tree.Constant, target: Type, node: ast.AST) -> tree.Expression | None:
    number = value.value
    if isinstance(target, RegisterType) and value.type is EXACT:
        return tree.Constant(target, value.at, _in_range(number, value.modular, target.base, node))
    if isinstance(target, AddressType) and value.type is EXACT:
        return tree.Constant(target, value.at, _in_range(number, value.modular, _u64(), node, target))
    if isinstance(target, IntType):
        return tree.Constant(target, value.at, _in_range(number, value.modular, target, node))
    return None


def _u64() -> IntType:
    assert isinstance(u64, IntType)
    return u64


def _in_range(number: int, modular: bool, target: IntType, node: ast.AST, shown_type: Type | None = None) -> int:
    if target.minimum <= number <= target.maximum:
        return number
    if modular and -(1 << target.bits) <= number < 0:
        return target.wrap(number)
    hint = f"{target} goes from {spelled(target.minimum)} to {spelled(target.maximum)}"
    raise Refusal(node, f"{spelled(number)} does not fit {shown_type or target}", hint)


def spelled(number: int) -> str:
    """A number as messages spell it: hexadecimal if it is large."""
    return str(number) if abs(number) < 1 << 16 else f"{number:#x}"


def _widen(value: tree.Expression, source: IntType, target: IntType, node: ast.AST) -> tree.Expression:
    if source is target:
        return tree.Convert(target, value.at, value)
    if source.signed != target.signed:
        raise Refusal(node, f"{value.type} and {target} differ in sign", f"write {target}({shown(node)})")
    if source.bits > target.bits:
        raise Refusal(node, f"{value.type} is wider than {target}", f"write {target}({shown(node)})")
    refuse_short_shift(value, target, node)
    return tree.Convert(target, value.at, value)


def refuse_short_shift(value: tree.Expression, target: Type, node: ast.AST) -> None:
    """`u32 << n` drops bits before it is widened, which is hardly ever meant."""
    if isinstance(value, tree.Binary) and value.operator == "<<":
        left = shown(node.left) if isinstance(node, ast.BinOp) else "…"
        raise Refusal(
            node,
            f"the shift is done in {value.type} and only then widened to {target}",
            f"write {target}({left}) << …, or {target}(…) around it",
        )


def _reference(value: tree.Expression, source: PointerType, target: Type, node: ast.AST) -> tree.Expression | None:
    if isinstance(target, HeldType) and source.target == target.target:
        raise Refusal(node, f"this {source} is not locked here", f"it takes the {target} that locking gives")
    if isinstance(target, PointerType) and source.target == target.target:
        if source.nullable and not target.nullable:
            raise may_be_none(node)
        return tree.Convert(target, value.at, value)
    array = source.target
    if isinstance(target, ArrayType) and isinstance(array, ArrayType) and array.element == target.element:
        count = tree.Constant(_u64(), value.at, array.count or 0)
        return tree.Slice(target, value.at, value, count)
    return None


def _tuple(value: tree.Tuple, target: TupleType, node: ast.AST) -> tree.Expression:
    if len(value.elements) != len(target.elements):
        raise Refusal(node, f"{len(value.elements)} values where {len(target.elements)} are wanted")
    nodes = node.elts if isinstance(node, ast.Tuple) else [node] * len(value.elements)
    elements = [
        coerce(element, type, part) for element, type, part in zip(value.elements, target.elements, nodes, strict=True)
    ]
    return tree.Tuple(target, value.at, elements)


def settle(value: tree.Expression, node: ast.AST) -> tree.Expression:
    """Give an exact number the type it has where nothing else decides: u64, below zero i64."""
    if value.type is not EXACT or not isinstance(value, tree.Constant):
        if isinstance(value, tree.Tuple) and any(element.type is EXACT for element in value.elements):
            elements = [settle(element, node) for element in value.elements]
            return tree.Tuple(TupleType(tuple(element.type for element in elements)), value.at, elements)
        return value
    number = value.value
    type = i64 if number < 0 and not value.modular else u64
    assert isinstance(type, IntType)
    return coerce(value, type, node)


def common(
    left: tree.Expression, right: tree.Expression, nodes: tuple[ast.expr, ast.expr], node: ast.AST
) -> tuple[tree.Expression, tree.Expression, Type]:
    """Both as values of the wider type; refused if they do not go together."""
    if left.type is EXACT and right.type is EXACT:
        left, right = settle(left, nodes[0]), settle(right, nodes[1])
        if left.type is not right.type:
            left, right = coerce(left, i64, nodes[0]), coerce(right, i64, nodes[1])  # pyright: ignore[reportArgumentType]
        return left, right, left.type
    if left.type is EXACT:
        return (
            coerce(left, number_type(right.type), nodes[0]),
            lower(right, nodes[1]),
            number_type(right.type),
        )
    if right.type is EXACT:
        return lower(left, nodes[0]), coerce(right, number_type(left.type), nodes[1]), number_type(left.type)
    if left.type == right.type and integer_of(left.type) is None:
        return left, right, left.type
    a, b = integer_of(left.type), integer_of(right.type)
    if a is None or b is None:
        raise Refusal(node, f"{describe(left.type)} and {describe(right.type)} do not go together")
    if isinstance(left, tree.Constant) and isinstance(left.type, EnumType):
        a = b
    elif isinstance(right, tree.Constant) and isinstance(right.type, EnumType):
        b = a
    if a.signed != b.signed:
        raise Refusal(node, f"{left.type} and {right.type} differ in sign", f"convert one: {a}(…) or {b}(…)")
    type = a if a.bits >= b.bits else b
    return coerce(left, type, nodes[0]), coerce(right, type, nodes[1]), type


def number_type(type: Type) -> Type:
    """The type that an exact number takes beside a value of this type."""
    return integer_of(type) or type


def lower(value: tree.Expression, node: ast.AST) -> tree.Expression:
    """Enumerations and registers as their integers."""
    integer = integer_of(value.type)
    return value if integer is None else coerce(value, integer, node)


def require_bool(value: tree.Expression, node: ast.AST) -> tree.Expression:
    """The value if it is a bool; nothing converts to one by itself."""
    if value.type is BOOL or isinstance(value.type, BoolType):
        return value
    raise Refusal(node, f"a condition is a bool, this is {describe(value.type)}", _hint(value.type, BOOL, node))
