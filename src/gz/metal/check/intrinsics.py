# SPDX-License-Identifier: Apache-2.0
"""Intrinsics: one rule for each kind. Those that are statements by nature are checked in texts.py and statements.py."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

import gz.metal.check.expressions as expressions
import gz.metal.check.places as places
from gz.bits.annotation import AnnotationError, type_of
from gz.bits.integers import Va, u8, u16, u32, u64
from gz.bits.intrinsic import Intrinsic
from gz.bits.sysreg import SysReg
from gz.bits.types import (
    NONE,
    ArrayType,
    HeldType,
    LayoutType,
    PointerType,
    TupleType,
    Type,
    align_of,
    size_of,
)
from gz.metal import tree
from gz.metal.check import tokens
from gz.metal.check.conversion import coerce, describe, integer_of, settle
from gz.metal.check.scope import MISSING, Scope
from gz.metal.check.static import static
from gz.metal.errors import Refusal, similar

_VA: Any = Va
_U64: Any = u64
_WIDTHS: dict[str, Any] = {"8": u8, "16": u16, "32": u32, "64": u64}


def call(scope: Scope, node: ast.Call, intrinsic: Intrinsic, wanted: Type | None) -> tree.Expression:
    """An intrinsic with a value."""
    for keyword in node.keywords:
        raise Refusal(keyword, f"{intrinsic.name} takes its arguments by position")
    needed = sum(parameter.default is parameter.empty for parameter in intrinsic.parameters)
    most = len(intrinsic.parameters)
    for argument in node.args:
        if isinstance(argument, ast.Starred):
            raise Refusal(argument, "unpacking with * is not in the language")
    if not needed <= len(node.args) <= most:
        count = f"{needed}" if needed == most else f"{needed} to {most}"
        raise Refusal(node, f"{intrinsic.name} takes {count} argument{'s' * (count != '1')}")
    rule = _RULES.get(intrinsic.kind)
    if rule is None:
        raise Refusal(node, f"{intrinsic.name}() is a statement, it has no value")
    return rule(scope, node, intrinsic)


def _read_once(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    place = places.scalar_place(scope, node.args[0])
    order = "acquire" if intrinsic.name == "load_acquire" else "once"
    _refuse_window(place, node.args[0], intrinsic, order == "once")
    return tree.Load(place.type, scope.at(node), place, order)


def _refuse_window(place: tree.Place, node: ast.expr, intrinsic: Intrinsic, allowed: bool) -> None:
    if place.window and not allowed:
        raise Refusal(node, f"{intrinsic.name} is for memory, this is a device register")


def store(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Statement:
    """write_once, store_release."""
    place = places.writable(places.scalar_place(scope, node.args[0]), node.args[0])
    order = "release" if intrinsic.name == "store_release" else "once"
    _refuse_window(place, node.args[0], intrinsic, order == "once")
    return tree.Store(scope.at(node), place, expressions.value(scope, node.args[1], place.type), order)


def _atomic_place(scope: Scope, node: ast.Call, intrinsic: Intrinsic, arithmetic: bool) -> tree.Place:
    place = places.writable(places.scalar_place(scope, node.args[0]), node.args[0])
    _refuse_window(place, node.args[0], intrinsic, False)
    if arithmetic and integer_of(place.type) is None:
        raise Refusal(node.args[0], f"{intrinsic.name} works on integers, this is {describe(place.type)}")
    return place


def _atomic(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    place = _atomic_place(scope, node, intrinsic, intrinsic.name != "exchange")
    operand = expressions.value(scope, node.args[1], place.type)
    return tree.Atomic(place.type, scope.at(node), intrinsic.name, place, operand)


def _compare_exchange(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    place = _atomic_place(scope, node, intrinsic, False)
    expected = expressions.value(scope, node.args[1], place.type)
    new = expressions.value(scope, node.args[2], place.type)
    return tree.Atomic(place.type, scope.at(node), intrinsic.name, place, new, expected)


def _pointed(scope: Scope, node: ast.expr, type: Type) -> tree.Place:
    address = expressions.value(scope, node, _VA)
    return tree.At(type, scope.at(node), False, False, address)


def _peek(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    type = _WIDTHS[intrinsic.name.removeprefix("peek")]
    return tree.Load(type, scope.at(node), _pointed(scope, node.args[0], type), "once")


def poke(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Statement:
    """A store to an address."""
    type = _WIDTHS[intrinsic.name.removeprefix("poke")]
    place = _pointed(scope, node.args[0], type)
    return tree.Store(scope.at(node), place, expressions.value(scope, node.args[1], type), "once")


def _type_argument(scope: Scope, node: ast.expr) -> Type:
    item = static(scope, node) if not isinstance(node, ast.Subscript) else MISSING
    try:
        if item is not MISSING:
            return type_of(item)
        names = {**scope.globals, **{name: scope.global_value(name) for name in scope.closure}}
        return type_of(node, names)
    except AnnotationError as error:
        raise Refusal(error.node if error.node is not None else node, str(error)) from None


def _mmio(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    window = _type_argument(scope, node.args[0])
    if not (isinstance(window, LayoutType) and window.window):
        raise Refusal(node.args[0], f"mmio takes a Window, {window} is none", "view() is for memory")
    address = expressions.value(scope, node.args[1], _VA)
    return tree.Convert(PointerType(window), scope.at(node), address)


def _view(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    type = _type_argument(scope, node.args[0])
    if isinstance(type, LayoutType) and type.window:
        raise Refusal(node.args[0], f"{type} is a device window", "mmio() is for devices")
    address = expressions.value(scope, node.args[1], _VA)
    if isinstance(type, ArrayType):
        if len(node.args) != 3:
            raise Refusal(node, "view of an array takes a count")
        count = expressions.value(scope, node.args[2], _U64)
        return tree.Slice(type, scope.at(node), address, count)
    if not isinstance(type, LayoutType) or len(node.args) != 2:
        raise Refusal(node, "view takes a struct and an address, or Array[T], an address and a count")
    return tree.Convert(PointerType(type), scope.at(node), address)


def _address(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    argument = node.args[0]
    at = scope.at(node)
    if _is_scalar_place(scope, argument):
        place = places.place(scope, argument)
        if not isinstance(place.type, PointerType) and places.is_scalar(place.type):
            return tree.Convert(_VA, at, tree.Reference(PointerType(place.type), at, place))
    reference = expressions.expression(scope, argument)
    if isinstance(reference.type, PointerType):
        places.present(reference, argument)
    elif not isinstance(reference.type, ArrayType):
        raise Refusal(argument, f"{describe(reference.type)} has no address: a place or a reference has")
    return tree.Convert(_VA, at, reference)


def _held(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    reference = expressions.expression(scope, node.args[0])
    target = reference.type.target if isinstance(reference.type, PointerType) else None
    if not isinstance(target, LayoutType) or target.window:
        raise Refusal(node.args[0], f"held takes a struct, this is {describe(reference.type)}")
    if isinstance(reference.type, HeldType):
        raise Refusal(node.args[0], f"this is a {reference.type} already")
    places.present(reference, node.args[0])
    return tokens.made(scope, tree.Convert(HeldType(target), scope.at(node), reference), node)


def _is_scalar_place(scope: Scope, node: ast.expr) -> bool:
    if not isinstance(node, ast.Attribute | ast.Subscript) or static(scope, node) is not MISSING:
        return False
    return places.system_register(scope, node) is None


def copy(scope: Scope, node: ast.Call) -> tree.Statement:
    """A struct or array copied over another of its type."""
    target = expressions.expression(scope, node.args[0])
    source = expressions.expression(scope, node.args[1])
    kinds = [places.present(value, part) for value, part in zip((target, source), node.args, strict=True)]
    if kinds[0] != kinds[1] and not _same_array(kinds[0], kinds[1]):
        raise Refusal(node, f"copy between {kinds[0]} and {kinds[1]}")
    for value, part in zip((target, source), node.args, strict=True):
        if isinstance(value, tree.Reference) and value.place.window:
            raise Refusal(part, "a device's registers are not copied", "read them one by one")
        kind = places.present(value, part)
        if isinstance(kind, LayoutType) and kind.window:
            raise Refusal(part, "a device's registers are not copied", "read them one by one")
    if isinstance(kinds[0], ArrayType) and kinds[0].constant:
        raise Refusal(node.args[0], "this is a constant table: it cannot be written")
    return tree.Copy(scope.at(node), target, source, size_of(kinds[0]), align_of(kinds[0]))


def _same_array(a: Type, b: Type) -> bool:
    return isinstance(a, ArrayType) and isinstance(b, ArrayType) and (a.element, a.count) == (b.element, b.count)


def _count(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    operand = settle(expressions.expression(scope, node.args[0]), node.args[0])
    type = integer_of(operand.type)
    if type is None:
        raise Refusal(node.args[0], f"{intrinsic.name} works on integers, this is {describe(operand.type)}")
    operand = coerce(operand, type, node.args[0])
    if intrinsic.name == "byte_swap" and type.bits == 8:
        return operand
    return tree.Unary(type, scope.at(node), intrinsic.name, operand)


def _register(scope: Scope, node: ast.expr) -> SysReg:
    register = static(scope, node)
    if not isinstance(register, SysReg):
        raise Refusal(
            node,
            "this is no system register known at build time",
            "name it: SysRegs.X, or loop with unroll()",
        )
    return register


def _sysreg_read(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    return places.read_register(_register(scope, node.args[0]), node.args[0], scope.at(node))


def _sysreg_write(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    register = _register(scope, node.args[0])
    if register.access == "ro":
        raise Refusal(node.args[0], f"{register.name} can only be read")
    operand = expressions.value(scope, node.args[1], _U64)
    return tree.Instruction(NONE, scope.at(node), "sysreg_write", register.name, register, [operand])


def _operation(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tuple[str, Any]:
    name = static(scope, node.args[0])
    if not isinstance(name, str):
        raise Refusal(node.args[0], f"{intrinsic.name} takes the operation's name as a constant text")
    if name not in intrinsic.operations:
        raise Refusal(node.args[0], f"there is no {intrinsic.name} {name}", similar(name, intrinsic.operations))
    return name, intrinsic.operations[name]


def _barrier(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    name, operation = _operation(scope, node, intrinsic)
    return tree.Instruction(NONE, scope.at(node), "barrier", f"{intrinsic.name} {name}", operation, [])


def _plain(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    return tree.Instruction(NONE, scope.at(node), "plain", intrinsic.name, None, [])


def _sys(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    name, operation = _operation(scope, node, intrinsic)
    if operation.argument != (len(node.args) == 2):
        wants = "an operand" if operation.argument else "no operand"
        raise Refusal(node, f"{intrinsic.name} {name} takes {wants}")
    kinds = [_VA if parameter.annotation == "Va" else _U64 for parameter in intrinsic.parameters[1:]]
    operands = [expressions.value(scope, part, kind) for part, kind in zip(node.args[1:], kinds, strict=False)]
    return tree.Instruction(NONE, scope.at(node), "sys", f"{intrinsic.name} {name}", operation, operands)


def _call(scope: Scope, node: ast.Call, intrinsic: Intrinsic) -> tree.Expression:
    kinds = [_VA if parameter.annotation == "Va" else _U64 for parameter in intrinsic.parameters]
    operands = [expressions.value(scope, part, kind) for part, kind in zip(node.args, kinds, strict=False)]
    while len(operands) < len(kinds):
        operands.append(tree.Constant(_U64, scope.at(node), 0))
    results = TupleType((_U64,) * 4)
    return tree.Instruction(results, scope.at(node), "call", intrinsic.name, None, operands)


_RULES: dict[str, Callable[[Scope, ast.Call, Intrinsic], tree.Expression]] = {
    "read_once": _read_once,
    "load_acquire": _read_once,
    "atomic": _atomic,
    "compare_exchange": _compare_exchange,
    "peek": _peek,
    "mmio": _mmio,
    "view": _view,
    "address": _address,
    "held": _held,
    "count": _count,
    "sysreg_read": _sysreg_read,
    "sysreg_write": _sysreg_write,
    "barrier": _barrier,
    "plain": _plain,
    "sys": _sys,
    "call": _call,
}
