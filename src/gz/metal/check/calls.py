# SPDX-License-Identifier: Apache-2.0
"""Calls: functions, methods, conversions, registers, tables of functions, builtins, intrinsics."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Sequence
from enum import IntEnum
from types import FunctionType
from typing import Any, cast

import gz.metal.check.expressions as expressions
import gz.metal.check.intrinsics as intrinsics
import gz.metal.check.places as places
from gz.bits.annotation import register_type
from gz.bits.enumeration import enum_type
from gz.bits.integers import u64
from gz.bits.intrinsic import Intrinsic
from gz.bits.layout import LayoutMeta, sizeof
from gz.bits.register import Register
from gz.bits.storage import FunctionTable
from gz.bits.types import (
    NEVER,
    AddressType,
    ArrayType,
    BoolType,
    EnumType,
    IntType,
    LayoutType,
    PointerType,
    RegisterType,
    Type,
)
from gz.metal import tree
from gz.metal.check import tokens
from gz.metal.check.conversion import EXACT, coerce, common, describe, integer_of, lower, settle, shown
from gz.metal.check.scope import MISSING, Scope
from gz.metal.check.static import static
from gz.metal.errors import Refusal, similar
from gz.metal.functions import marks

#: Whose functions are for declarations.
_VOCABULARY = ("gz.bits.", "gz.metal.")


def call(scope: Scope, node: ast.Call, wanted: Type | None) -> tree.Expression:
    """A call of whatever can be called: build-time functions first."""
    item = static(scope, node)
    if item is not MISSING:
        return expressions.from_object(scope, item, node, wanted)
    if isinstance(node.func, ast.Subscript):
        table = static(scope, node.func.value)
        if isinstance(table, FunctionTable):
            return _through_table(scope, node, table, node.func)
    function = static(scope, node.func)
    if function is MISSING:
        return _method(scope, node)
    if isinstance(function, Intrinsic):
        return intrinsics.call(scope, node, function, wanted)
    if isinstance(function, IntType | AddressType):
        return _convert(scope, node, function)
    if isinstance(function, type):
        return _type_call(scope, node, function)
    rule = _BUILTINS.get(id(function))
    if rule is not None:
        return rule(scope, node, wanted)
    if isinstance(function, FunctionType) or hasattr(function, "__wrapped__"):
        if "const" in marks(function) or function is sizeof:
            raise Refusal(node, f"{function.__name__} runs at build time: its arguments are constants")
        if function.__module__.startswith(_VOCABULARY):
            raise Refusal(node, f"{function.__name__}() declares: it stands at the module's top level")
        return _call_function(scope, node, scope.declare(function, None), [])
    if inspect.ismethod(function) and isinstance(function.__self__, Register):
        return _replace(scope, node, expressions.from_object(scope, function.__self__, node))
    raise Refusal(node.func, f"{shown(node.func)} cannot be called here", _call_hint(function))


def _call_hint(function: Any) -> str:
    if getattr(function, "__module__", "") == "builtins":
        return "metal functions, methods, intrinsics, @const functions and conversions can"
    return ""


def _method(scope: Scope, node: ast.Call) -> tree.Expression:
    """`reference.method(…)`, or `register.replace(…)`."""
    if isinstance(node.func, ast.Lambda):
        return expressions.expression(scope, node.func)
    if not isinstance(node.func, ast.Attribute):
        raise Refusal(node.func, f"{shown(node.func)} is no function")
    base = expressions.expression(scope, node.func.value)
    if isinstance(base.type, RegisterType) and node.func.attr == "replace":
        return _replace(scope, node, base)
    target = base.type.target if isinstance(base.type, PointerType) else None
    if not isinstance(target, LayoutType):
        raise Refusal(node.func, f"{describe(base.type)} has no method {node.func.attr}")
    places.present(base, node.func.value)
    layout = target.layout
    found = inspect.getattr_static(layout, node.func.attr, None)
    if not isinstance(found, FunctionType | staticmethod) or node.func.attr in _INHERITED:
        names = [name for name, value in vars(layout).items() if isinstance(value, FunctionType)]
        if node.func.attr in places.fields_of(layout, node):
            raise Refusal(node.func, f"{layout.__name__}.{node.func.attr} is a field, no method")
        raise Refusal(node.func, f"{layout.__name__} has no method {node.func.attr}", similar(node.func.attr, names))
    signature = scope.declare(found if isinstance(found, FunctionType) else found.__func__, layout)
    return _call_function(scope, node, signature, [] if isinstance(found, staticmethod) else [base])


_INHERITED = frozenset({"view", "__init__", "__repr__"})


def _call_function(
    scope: Scope, node: ast.Call, signature: tree.Signature, first: list[tree.Expression]
) -> tree.Expression:
    parameters = signature.parameters
    given: list[tree.Expression | None] = [None] * len(parameters)
    name = signature.function.__name__
    if first and not parameters:
        raise Refusal(node.func, f"{name} takes no self: a method's first parameter is its struct")
    if first:
        given[0] = coerce(first[0], parameters[0].type, node.func)
    for position, argument in enumerate(node.args, len(first)):
        if isinstance(argument, ast.Starred):
            raise Refusal(argument, "unpacking with * is not in the language")
        if position >= len(parameters):
            raise Refusal(argument, f"{name} takes {_count(len(parameters) - len(first))}")
        given[position] = expressions.value(scope, argument, parameters[position].type)
    names = [parameter.name for parameter in parameters]
    for keyword in node.keywords:
        if keyword.arg is None:
            raise Refusal(keyword.value, "unpacking with ** is not in the language")
        if keyword.arg not in names:
            raise Refusal(keyword, f"{name} has no parameter {keyword.arg}", similar(keyword.arg, names))
        position = names.index(keyword.arg)
        if given[position] is not None:
            raise Refusal(keyword, f"{keyword.arg} is given twice")
        given[position] = expressions.value(scope, keyword.value, parameters[position].type)
    arguments = [argument for argument in given if argument is not None]
    if len(arguments) != len(parameters):
        missing = names[given.index(None)]
        raise Refusal(node, f"{name} takes {_count(len(parameters) - len(first))}: {missing} is missing")
    scope.calls.append((signature, node))
    given_by = {keyword.arg: keyword.value for keyword in node.keywords}
    nodes = [*[node.func] * len(first), *node.args, *(given_by[name] for name in names if name in given_by)]
    tokens.release(scope, signature, zip(arguments, nodes, strict=True))
    return tokens.made(scope, tree.Call(signature.result, scope.at(node), signature, arguments), node)


def _count(count: int) -> str:
    return "no arguments" if count == 0 else f"{count} argument{'s' * (count != 1)}"


def _through_table(scope: Scope, node: ast.Call, table: FunctionTable, access: ast.Subscript) -> tree.Expression:
    try:
        type = table.signature()
    except TypeError as error:
        raise Refusal(access, str(error)) from None
    functions: list[tree.Signature] = []
    for function in table.functions:
        signature = scope.declare(function, None)
        if tuple(parameter.type for parameter in signature.parameters) != type.parameters:
            raise Refusal(access, f"{function.__qualname__} in this table takes other parameters than {type}")
        if signature.result != type.result and signature.result is not NEVER:
            raise Refusal(access, f"{function.__qualname__} in this table gives {signature.result}, not {type.result}")
        if "releases" in signature.marks:
            raise Refusal(access, f"{function.__qualname__} is @releases: it is called by name, not through a table")
        functions.append(signature)
        scope.calls.append((signature, node))
    word: Any = u64
    index = expressions.expression(scope, access.slice, word)
    integer = integer_of(index.type)
    if index.type is not EXACT and (integer is None or integer.signed):
        raise Refusal(access.slice, f"an index is an unsigned integer, this is {describe(index.type)}")
    if isinstance(index, tree.Constant) and not 0 <= index.value < len(functions):
        raise Refusal(access.slice, f"index {index.value} of a table of {len(functions)}")
    index = coerce(lower(index, access.slice), word, access.slice)
    if node.keywords or len(node.args) != len(type.parameters):
        raise Refusal(node, f"the functions of this table take {_count(len(type.parameters))}, by position")
    arguments = [
        expressions.value(scope, argument, parameter)
        for argument, parameter in zip(node.args, type.parameters, strict=True)
    ]
    return tokens.made(scope, tree.CallTable(type.result, scope.at(node), table, functions, index, arguments), node)


def one_argument(scope: Scope, node: ast.Call, name: str) -> ast.expr:
    """The argument of a call that takes exactly one."""
    if len(node.args) != 1 or node.keywords or isinstance(node.args[0], ast.Starred):
        raise Refusal(node, f"{name} takes one argument")
    return node.args[0]


def _convert(scope: Scope, node: ast.Call, target: IntType | AddressType) -> tree.Expression:
    """`u32(x)`, `Pa(x)`: from any scalar, by truncation or extension."""
    argument = one_argument(scope, node, str(target))
    at = scope.at(node)
    operand = expressions.expression(scope, argument, target if isinstance(target, IntType) else u64)  # pyright: ignore[reportArgumentType]
    word: Any = target if isinstance(target, IntType) else u64
    if isinstance(operand, tree.Constant) and (operand.type is EXACT or isinstance(operand.type, EnumType)):
        number = operand.value
        if not -(1 << word.bits) < number < 1 << word.bits:
            raise Refusal(argument, f"{number:#x} does not fit {target}")
        return tree.Constant(target, at, word.wrap(number))
    if isinstance(operand.type, AddressType) and isinstance(target, AddressType) and operand.type is not target:
        raise Refusal(node, f"{operand.type} and {target} are addresses of different spaces", f"write {target}(u64(…))")
    if integer_of(operand.type) is None and not isinstance(operand.type, AddressType | BoolType):
        hint = "address(…) gives where it lies" if isinstance(operand.type, PointerType) else ""
        raise Refusal(argument, f"{describe(operand.type)} is no number", hint)
    if isinstance(operand, tree.Constant):
        return tree.Constant(target, at, word.wrap(operand.value))
    return tree.Convert(target, at, operand)


def _type_call(scope: Scope, node: ast.Call, function: type) -> tree.Expression:
    if function is bool:
        raise Refusal(node, "bool() is not in the language", "compare: … != 0")
    if function is int:
        raise Refusal(node, "int has no width", "use u64(…), i64(…), …")
    if issubclass(function, Register):
        return _register(scope, node, function)
    if issubclass(function, IntEnum):
        target = enum_type(function)
        argument = one_argument(scope, node, str(target))
        operand = coerce(expressions.expression(scope, argument, target.base), target.base, argument)
        return tree.Convert(target, scope.at(node), operand)
    rule = _BUILTINS.get(id(cast("object", function)))
    if rule is not None:
        return rule(scope, node, None)
    if isinstance(function, LayoutMeta):
        raise Refusal(
            node,
            f"a {function.__name__} lies in storage",
            f"storage({function.__name__}) at the module's top level",
        )
    raise Refusal(node.func, f"{function.__name__} cannot be called here")


def _register(scope: Scope, node: ast.Call, register: type[Register]) -> tree.Expression:
    """`ESR_EL2(x)`, `HCR_EL2(VM=1, RW=flag)`, or both."""
    type = register_type(register)
    if len(node.args) > 1:
        raise Refusal(node, f"{type} takes one value and fields by name")
    start: tree.Expression = tree.Constant(type.base, scope.at(node), 0)
    if node.args:
        start = coerce(expressions.expression(scope, node.args[0], type.base), type.base, node.args[0])
    return _insert(scope, node, tree.Convert(type, scope.at(node), start), type)


def _replace(scope: Scope, node: ast.Call, base: tree.Expression) -> tree.Expression:
    if node.args:
        raise Refusal(node.args[0], "replace() takes fields by name")
    assert isinstance(base.type, RegisterType)
    return _insert(scope, node, base, base.type)


def _insert(scope: Scope, node: ast.Call, base: tree.Expression, type: RegisterType) -> tree.Expression:
    """Constants are checked to fit their fields; of running values the low bits count."""
    for keyword in node.keywords:
        if keyword.arg is None:
            raise Refusal(keyword, "unpacking with ** is not in the language")
        field = places.bit_field(type, keyword.arg, keyword)
        value = settle(expressions.expression(scope, keyword.value, type.base), keyword.value)
        if isinstance(value, tree.Constant) and not 0 <= value.value < 1 << field.width:
            raise Refusal(keyword.value, f"{field.name} has {field.width} bits: {value.value:#x} does not fit")
        if isinstance(value.type, BoolType) or integer_of(value.type) is not None:
            value = value if value.type is type.base else tree.Convert(type.base, value.at, value)
        else:
            raise Refusal(keyword.value, f"{describe(value.type)} cannot be a field's value")
        base = tree.Insert(type, scope.at(node), base, field.low, field.width, value)
    return base


def _len(scope: Scope, node: ast.Call, wanted: Type | None) -> tree.Expression:
    argument = one_argument(scope, node, "len")
    table = static(scope, argument)
    if isinstance(table, FunctionTable):
        return tree.Constant(EXACT, scope.at(node), len(table))
    array = expressions.expression(scope, argument)
    type = array.type.target if isinstance(array.type, PointerType) else array.type
    if not isinstance(type, ArrayType):
        raise Refusal(argument, f"{describe(array.type)} has no len()")
    if isinstance(array.type, PointerType):
        places.present(array, argument)
        return tree.Constant(EXACT, scope.at(node), type.count or 0)
    return tree.Length(u64, scope.at(node), array)  # pyright: ignore[reportArgumentType]


def _extreme(name: str) -> Callable[[Scope, ast.Call, Type | None], tree.Expression]:
    def rule(scope: Scope, node: ast.Call, wanted: Type | None) -> tree.Expression:
        if len(node.args) < 2 or node.keywords:
            raise Refusal(node, f"{name} takes two or more values")
        hint = wanted if isinstance(wanted, IntType) else None
        values = [expressions.expression(scope, argument, hint) for argument in node.args]
        return _extreme_of(scope, node, name, values)

    return rule


def _extreme_of(scope: Scope, node: ast.Call, name: str, values: Sequence[tree.Expression]) -> tree.Expression:
    numbers = [value.value for value in values if isinstance(value, tree.Constant) and value.type is EXACT]
    if len(numbers) == len(values):
        return tree.Constant(EXACT, scope.at(node), min(numbers) if name == "min" else max(numbers))
    best, best_node = values[0], node.args[0]
    for other, part in zip(values[1:], node.args[1:], strict=True):
        first, second, type = common(best, other, (best_node, part), node)
        if not isinstance(type, IntType | AddressType):
            raise Refusal(node, f"{describe(type)} has no order")
        best = tree.Extreme(type, scope.at(node), name, [first, second])
    return best


def _abs(scope: Scope, node: ast.Call, wanted: Type | None) -> tree.Expression:
    argument = one_argument(scope, node, "abs")
    operand = expressions.expression(scope, argument, wanted)
    if isinstance(operand, tree.Constant) and operand.type is EXACT:
        return tree.Constant(EXACT, scope.at(node), abs(operand.value))
    type = integer_of(operand.type)
    if type is None:
        raise Refusal(argument, f"{describe(operand.type)} has no abs()")
    operand = coerce(operand, type, argument)
    return tree.Unary(type, scope.at(node), "abs", operand) if type.signed else operand


def _range(scope: Scope, node: ast.Call, wanted: Type | None) -> tree.Expression:
    raise Refusal(node, "range() stands in `for … in range(…)` only")


def _print(scope: Scope, node: ast.Call, wanted: Type | None) -> tree.Expression:
    raise Refusal(node, "print is not in the language", 'write log(f"…")')


_BUILTINS: dict[int, Callable[[Scope, ast.Call, Type | None], tree.Expression]] = {
    id(len): _len,
    id(min): _extreme("min"),
    id(max): _extreme("max"),
    id(abs): _abs,
    id(range): _range,
    id(print): _print,
}
