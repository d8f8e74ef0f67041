# SPDX-License-Identifier: Apache-2.0
"""From annotations to types.

Annotations are strings (`from __future__ import annotations`), so that declarations may refer to each other in
circles. A name is looked up in the defining module and then among all structs declared so far.
"""

from __future__ import annotations

import ast
import functools
import types as python_types
import typing
from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Any, NoReturn, cast

from gz.bits.enumeration import enum_type
from gz.bits.integers import u8, u16, u32, u64
from gz.bits.register import Register
from gz.bits.types import (
    BOOL,
    NEVER,
    NONE,
    ArrayType,
    FunctionType,
    HeldType,
    LayoutType,
    PointerType,
    RegisterType,
    TupleType,
    Type,
)

#: Every Struct and Window class by name.
LAYOUTS: dict[str, list[Any]] = {}

_WIDTHS: dict[int, Any] = {8: u8, 16: u16, 32: u32, 64: u64}
_BUILTINS: dict[str, Any] = {"bool": bool, "tuple": tuple, "int": int, "str": str}


class AnnotationError(TypeError):
    """`node` is the part of the annotation that is wrong, if it has been parsed."""

    def __init__(self, message: str, node: ast.expr | None = None) -> None:
        super().__init__(message)
        self.node = node


class Array:
    """At run time `Array[T]` is an ArrayType without a length; editors see gz.bits.layout.Array."""

    def __class_getitem__(cls, element: Any) -> ArrayType:
        return ArrayType(type_of(element))


class ReadOnly:
    """`ReadOnly[T]`: an array parameter that is only read; constant tables are given to it."""

    def __class_getitem__(cls, element: Any) -> ArrayType:
        return ArrayType(type_of(element), constant=True)


class Ptr:
    """`Ptr[T]`: the address of a T. Editors read it as T."""

    def __class_getitem__(cls, target: Any) -> PointerType:
        return PointerType(type_of(target))


class Held:
    """`Held[T]`: a T whose lock is held. Editors read it as T."""

    def __class_getitem__(cls, target: Any) -> HeldType:
        return _held(type_of(target))


def _held(type: Type, node: ast.expr | None = None) -> HeldType:
    if not isinstance(type, LayoutType) or type.window:
        raise AnnotationError(f"Held[…] takes a struct, {type} is none", node)
    return HeldType(type)


def register_type(register: type[Register]) -> RegisterType:
    """The type of values of a register class."""
    return RegisterType(register, _WIDTHS[register.WIDTH])


def type_of(annotation: Any, names: Mapping[str, Any] | None = None) -> Type:
    """The type that an annotation means; AnnotationError, a TypeError, if it means none."""
    names = {} if names is None else names
    if isinstance(annotation, typing.ForwardRef):
        annotation = annotation.__forward_arg__
    if isinstance(annotation, str):
        try:
            annotation = _parse(annotation)
        except SyntaxError as error:
            raise AnnotationError(f"{annotation!r} is no type") from error
    if isinstance(annotation, ast.expr):
        return _from_syntax(annotation, names)
    return _from_object(annotation, names)


@functools.cache
def _parse(text: str) -> ast.expr:
    return ast.parse(text, mode="eval").body


def lookup(name: str, names: Mapping[str, Any]) -> Any:
    """What a name in an annotation stands for; LookupError."""
    if name in names:
        return names[name]
    if name in _BUILTINS:
        return _BUILTINS[name]
    found = LAYOUTS.get(name, [])
    if len(found) == 1:
        return found[0]
    if found:
        places = " and ".join(layout.__module__ for layout in found)
        raise LookupError(f"{name} is declared in {places}: names of structs are unique")
    raise LookupError(f"{name} is not defined")


def _from_syntax(node: ast.expr, names: Mapping[str, Any]) -> Type:
    match node:
        case ast.Constant(value=None):
            return NONE
        case ast.Constant(value=str() as text):
            return type_of(text, names)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            if isinstance(left, ast.Constant) and left.value is None:
                left, right = right, left
            if not (isinstance(right, ast.Constant) and right.value is None):
                raise AnnotationError("a union of types is not in the language; only `T | None` is", node)
            return _nullable(_from_syntax(left, names), node)
        case ast.Subscript(value=value, slice=argument):
            return _subscript(_resolve(value, names), argument, names, node)
        case ast.Name() | ast.Attribute():
            try:
                return _from_object(_resolve(node, names), names)
            except AnnotationError as error:
                raise AnnotationError(str(error), error.node or node) from None
        case _:
            raise AnnotationError(f"`{ast.unparse(node)}` is no type", node)


def _resolve(node: ast.expr, names: Mapping[str, Any]) -> Any:
    if isinstance(node, ast.Name):
        try:
            return lookup(node.id, names)
        except LookupError as error:
            raise AnnotationError(str(error.args[0]), node) from None
    if isinstance(node, ast.Attribute):
        try:
            return getattr(_resolve(node.value, names), node.attr)
        except (AttributeError, TypeError) as error:
            raise AnnotationError(str(error), node) from None
    raise AnnotationError(f"`{ast.unparse(node)}` is no type", node)


def _nullable(type: Type, node: ast.expr | None = None) -> PointerType:
    if isinstance(type, HeldType):
        raise AnnotationError(f"{type} is a token: it is never None", node)
    if isinstance(type, LayoutType):
        return PointerType(type, True)
    if isinstance(type, PointerType):
        return PointerType(type.target, True)
    raise AnnotationError(f"only references can be None, {type} cannot", node)


def _subscript(generic: Any, argument: ast.expr, names: Mapping[str, Any], node: ast.expr) -> Type:
    arguments = argument.elts if isinstance(argument, ast.Tuple) else [argument]
    if generic in (Array, ReadOnly, Ptr, Held):
        if len(arguments) != 1:
            raise AnnotationError(f"{generic.__name__}[…] takes one type", node)
        inner = _from_syntax(arguments[0], names)
        if generic is Held:
            return _held(inner, node)
        _refuse_held(inner, node)
        return PointerType(inner) if generic is Ptr else ArrayType(inner, constant=generic is ReadOnly)
    if generic is tuple:
        elements = tuple(_from_syntax(item, names) for item in arguments)
        for element in elements:
            _refuse_held(element, node)
        return TupleType(elements)
    if Callable in (generic, typing.get_origin(generic)) and len(arguments) == 2 and isinstance(arguments[0], ast.List):
        parameters = tuple(_from_syntax(item, names) for item in arguments[0].elts)
        return FunctionType(tuple(map(as_value, parameters)), as_value(_from_syntax(arguments[1], names)))
    raise AnnotationError(f"`{ast.unparse(node)}` is no type", node)


def _refuse_held(type: Type, node: ast.expr) -> None:
    if isinstance(type, HeldType):
        raise AnnotationError(f"{type} is a token: parameters, results and locals have it, nothing contains it", node)


def _from_object(value: Any, names: Mapping[str, Any]) -> Type:
    if isinstance(value, Type):
        return value
    if value is None or value is type(None):
        return NONE
    if value in (NoReturn, typing.Never):
        return NEVER
    if value is bool:
        return BOOL
    if isinstance(value, type):
        if hasattr(value, "is_window"):
            return LayoutType(value)
        if issubclass(value, Register):
            return register_type(value)
        if issubclass(value, IntEnum):
            return enum_type(value)
        if value is int:
            raise AnnotationError("int has no width: use u8 … u64 or i8 … i64")
    origin, arguments = typing.get_origin(value), typing.get_args(value)
    if origin is tuple:
        return TupleType(tuple(type_of(item, names) for item in arguments))
    if origin in (typing.Union, python_types.UnionType) and len(arguments) == 2 and type(None) in arguments:
        return _nullable(type_of(next(item for item in arguments if item is not type(None)), names))
    if origin is Callable and isinstance(arguments[0], list):
        listed = cast("list[Any]", arguments[0])
        parameters = tuple(as_value(type_of(item, names)) for item in listed)
        return FunctionType(parameters, as_value(type_of(arguments[1], names)))
    item = cast("object", value)
    shown = getattr(item, "__name__", None) or f"a {type(item).__name__}"
    raise AnnotationError(f"{shown} is no type of the language")


def as_value(type: Type) -> Type:
    """A type as it is in parameters, results and locals: structs are references there."""
    if isinstance(type, LayoutType):
        return PointerType(type)
    if isinstance(type, ArrayType) and type.count is not None:
        return PointerType(type)
    if isinstance(type, TupleType):
        return TupleType(tuple(map(as_value, type.elements)))
    return type
