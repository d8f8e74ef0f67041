# SPDX-License-Identifier: Apache-2.0
"""Fields, elements and storage: where values lie; also system registers and the bit fields of registers."""

from __future__ import annotations

import ast
import functools
from typing import Any, cast

import gz.metal.check.expressions as expressions
from gz.bits.enumeration import enum_type
from gz.bits.integers import u64
from gz.bits.register import BitField
from gz.bits.storage import FunctionTable, Storage, Table
from gz.bits.sysreg import SysReg
from gz.bits.types import (
    ArrayType,
    LayoutType,
    PointerType,
    RegisterType,
    TupleType,
    Type,
    align_of,
    size_of,
)
from gz.metal import tree
from gz.metal.check.conversion import EXACT, coerce, describe, integer_of, may_be_none, shown
from gz.metal.check.scope import MISSING, Scope
from gz.metal.check.static import is_register_file, static
from gz.metal.errors import Refusal, similar


def present(value: tree.Expression, node: ast.expr) -> Type:
    """What a reference refers to; refused if it may be None."""
    if not isinstance(value.type, PointerType):
        raise Refusal(node, f"{describe(value.type)} has no fields")
    if value.type.nullable:
        raise may_be_none(node)
    return value.type.target


def contents(place: tree.Place) -> tree.Expression:
    """A place used as a value: scalars are loaded, structs and arrays are referred to."""
    if isinstance(place.type, LayoutType | ArrayType):
        return tree.Reference(PointerType(place.type), place.at, place)
    return tree.Load(place.type, place.at, place)


def attribute(scope: Scope, node: ast.Attribute) -> tree.Expression:
    """`base.name` of the running program."""
    register = system_register(scope, node)
    if register is not None:
        return read_register(register, node, scope.at(node))
    base = expressions.expression(scope, node.value)
    if isinstance(base.type, RegisterType):
        return _bits(base, base.type, node, scope.at(node))
    return contents(member(scope, node, base))


def member(scope: Scope, node: ast.Attribute, base: tree.Expression) -> tree.Place:
    """The place of a field."""
    target = base.type.target if isinstance(base.type, PointerType) else None
    if not isinstance(target, LayoutType):
        hint = "an array has len() and elements" if isinstance(target or base.type, ArrayType) else ""
        raise Refusal(node, f"{describe(base.type)} has no {node.attr}", hint)
    layout = target.layout
    fields = fields_of(layout, node)
    if node.attr not in fields:
        if callable(getattr(layout, node.attr, None)):
            raise Refusal(node, f"{layout.__name__}.{node.attr} is a method: call it")
        raise Refusal(node, f"{layout.__name__} has no field {node.attr}", similar(node.attr, fields))
    present(base, node.value)
    found = fields[node.attr]
    return tree.Member(found.type, scope.at(node), target.window, False, base, found.offset)


def fields_of(layout: Any, node: ast.AST) -> dict[str, Any]:
    """A layout's fields; what is wrong with them is the error of this node."""
    try:
        return layout.fields
    except TypeError as error:
        raise Refusal(node, str(error)) from None


def _bits(base: tree.Expression, type: RegisterType, node: ast.Attribute, at: tree.Position) -> tree.Expression:
    field = bit_field(type, node.attr, node)
    bits = tree.Bits(type.base, at, coerce(base, type.base, node.value), field.low, field.width)
    if field.kind is not None:
        return tree.Convert(enum_type(field.kind), at, bits)
    return bits


def bit_field(type: RegisterType, name: str, node: ast.AST) -> BitField:
    """A register's field by its name."""
    fields = type.register.FIELDS
    if name not in fields:
        raise Refusal(node, f"{type} has no field {name}", similar(name, fields))
    return fields[name]


def system_register(scope: Scope, node: ast.expr) -> SysReg | None:
    """The register that `sysreg.NAME` stands for."""
    if not isinstance(node, ast.Attribute):
        return None
    base = static(scope, node.value) if isinstance(node.value, ast.Name | ast.Attribute) else MISSING
    if base is MISSING or not is_register_file(base):
        return None
    names = _registers(type(cast("object", base)))
    if node.attr not in names:
        raise Refusal(node, f"there is no system register {node.attr}", similar(node.attr, names))
    return names[node.attr]


@functools.cache
def _registers(owner: type) -> dict[str, SysReg]:
    return {
        name: value
        for base in reversed(owner.__mro__)
        for name, value in vars(base).items()
        if isinstance(value, SysReg)
    }


def read_register(register: SysReg, node: ast.AST, at: tree.Position) -> tree.Expression:
    """A system register as a value; refused if it is write-only."""
    if register.access == "wo":
        raise Refusal(node, f"{register.name} can only be written")
    word: Any = u64
    return tree.Instruction(word, at, "sysreg_read", register.name, register, [])


def write_register(register: SysReg, value: tree.Expression, node: ast.AST, at: tree.Position) -> tree.Statement:
    """A store to a system register; refused if it is read-only."""
    if register.access == "ro":
        raise Refusal(node, f"{register.name} can only be read")
    from gz.bits.types import NONE

    return tree.Evaluate(at, tree.Instruction(NONE, at, "sysreg_write", register.name, register, [value]))


def subscript(scope: Scope, node: ast.Subscript) -> tree.Expression:
    """`base[index]` of the running program."""
    if not isinstance(node.slice, ast.Slice):
        table = static(scope, node.value)
        if isinstance(table, FunctionTable):
            raise Refusal(node, "a function of a table is called at once", "write TABLE[i](…)")
        base = expressions.expression(scope, node.value)
        if isinstance(base.type, TupleType):
            return _item(scope, node, base, base.type)
        return contents(element(scope, node, base))
    raise Refusal(node.slice, "slices are not in the language", "view(Array[T], address, count) makes a part")


def _item(scope: Scope, node: ast.Subscript, base: tree.Expression, type: TupleType) -> tree.Expression:
    index = expressions.expression(scope, node.slice)
    if not isinstance(index, tree.Constant) or index.type is not EXACT:
        raise Refusal(node.slice, "a tuple is indexed by constants")
    if not 0 <= index.value < len(type.elements):
        raise Refusal(node.slice, f"the tuple has {len(type.elements)} elements")
    return tree.Item(type.elements[index.value], scope.at(node), base, index.value)


def element(scope: Scope, node: ast.Subscript, base: tree.Expression) -> tree.Place:
    """The place of an array's element; a constant index is checked now."""
    array = base.type
    if isinstance(array, PointerType):
        array = present(base, node.value)
    if not isinstance(array, ArrayType):
        raise Refusal(node, f"{describe(base.type)} has no elements")
    word: Any = u64
    index = expressions.expression(scope, node.slice, word)
    if isinstance(index, tree.Constant) and index.type is EXACT:
        if index.value < 0:
            raise Refusal(node.slice, "an index is not negative", "write array[len(array) - 1]")
        if array.count is not None and index.value >= array.count:
            raise Refusal(node.slice, f"index {index.value} of an array of {array.count}")
        index = coerce(index, word, node.slice)
    integer = integer_of(index.type)
    if integer is None or integer.signed:
        hint = f"write u64({shown(node.slice)})" if integer else ""
        raise Refusal(node.slice, f"an index is an unsigned integer, this is {describe(index.type)}", hint)
    checked = not (isinstance(index, tree.Constant) and array.count is not None and index.value < array.count)
    index = coerce(index, word, node.slice)
    window = (isinstance(array.element, LayoutType) and array.element.window) or _in_window(base)
    return tree.Element(array.element, scope.at(node), window, array.constant, base, index, array.count, checked)


def _in_window(base: tree.Expression) -> bool:
    return isinstance(base, tree.Reference) and base.place.window


def place(scope: Scope, node: ast.expr, why: str = "") -> tree.Place:
    """The place that an expression names; not a local, a system register or a value."""
    message = why or "this is not a place: a field, an array element or storage"
    if isinstance(node, ast.Attribute):
        if static(scope, node) is not MISSING or system_register(scope, node) is not None:
            item = static(scope, node)
            if not isinstance(item, Storage):
                raise Refusal(node, message)
            return tree.Declared(item.type, scope.at(node), False, False, item)
        base = expressions.expression(scope, node.value)
        if isinstance(base.type, RegisterType):
            raise Refusal(node, "registers are values", f"write … = {shown(node.value)}.replace({node.attr}=…)")
        return member(scope, node, base)
    if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Slice):
        item = static(scope, node)
        if item is MISSING:
            base = expressions.expression(scope, node.value)
            if not isinstance(base.type, TupleType):
                return element(scope, node, base)
    if isinstance(node, ast.Name):
        item = static(scope, node)
        if isinstance(item, Storage | Table):
            type: Type = item.type if isinstance(item, Storage) else ArrayType(item.element, len(item), True)
            return tree.Declared(type, scope.at(node), False, isinstance(item, Table), item)
    raise Refusal(node, message)


def scalar_place(scope: Scope, node: ast.expr) -> tree.Place:
    """A place that one load or store can access."""
    found = place(scope, node)
    if isinstance(found.type, LayoutType | ArrayType):
        raise Refusal(node, f"{found.type} is too large for one access")
    return found


def referred(value: tree.Expression, node: ast.expr) -> tuple[int, int]:
    """Size and alignment of what a reference refers to."""
    target = present(value, node)
    return size_of(target), align_of(target)


def writable(place: tree.Place, node: ast.AST) -> tree.Place:
    """The place, unless it is constant."""
    if place.constant:
        raise Refusal(node, "this is a constant table: it cannot be written")
    return place


def is_scalar(type: Type) -> bool:
    """Does one load or store hold it?"""
    return not isinstance(type, LayoutType | ArrayType | TupleType)
