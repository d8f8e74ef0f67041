# SPDX-License-Identifier: Apache-2.0
"""DWARF: lines, functions, variables and types, so that gdb shows the Python source."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gz.bits.storage import Storage
from gz.bits.types import (
    AddressType,
    ArrayType,
    BoolType,
    EnumType,
    IntType,
    LayoutType,
    PointerType,
    RegisterType,
    TupleType,
    Type,
    size_of,
)
from gz.metal import tree
from gz.metal.emit.text import width

if TYPE_CHECKING:
    from gz.metal.emit.body import Body


class NoDebug:
    """Where nobody will look."""

    def location(self, position: tree.Position, scope: str) -> str:
        """The node of a line and column."""
        return ""

    def function(self, function: tree.Function) -> tuple[str, str]:
        """A function's scope, and what is attached to its definition."""
        return "", ""

    def locals(self, body: Body, function: tree.Function) -> list[str]:
        """Records that tie locals to their slots."""
        return []

    def variable(self, item: Storage, local: bool, unique: bool) -> str:
        """What is attached to storage's definition."""
        return ""

    def emit(self) -> list[str]:
        """The lines of all nodes."""
        return []


class Debug(NoDebug):
    """Metadata nodes, numbered from `first`. Equal nodes are one."""

    def __init__(self, first: int) -> None:
        self._nodes: list[str] = []
        self._known: dict[str, str] = {}
        self._types: dict[Type, str] = {}
        self._globals: list[str] = []
        self._first = first
        self._unit = self._reserve()
        self._empty = self._node("!{}")

    def _reserve(self) -> str:
        self._nodes.append("")
        return f"!{self._first + len(self._nodes) - 1}"

    def _set(self, name: str, text: str) -> None:
        self._nodes[int(name[1:]) - self._first] = text

    def _node(self, text: str) -> str:
        if text not in self._known:
            name = self._reserve()
            self._set(name, text)
            self._known[text] = name
        return self._known[text]

    def _distinct(self, text: str) -> str:
        name = self._reserve()
        self._set(name, f"distinct {text}")
        return name

    def _file(self, path: str) -> str:
        return self._node(f'!DIFile(filename: "{path}", directory: ".")')

    def location(self, position: tree.Position, scope: str) -> str:
        return self._node(f"!DILocation(line: {position[0]}, column: {position[1]}, scope: {scope})")

    def function(self, function: tree.Function) -> tuple[str, str]:
        signature = function.signature
        file = self._file(signature.source.path)
        line = signature.source.definition.lineno
        kinds = [signature.result, *(parameter.type for parameter in signature.parameters)]
        listed = ", ".join(self.type(kind) for kind in kinds)
        kind = self._node(f"!DISubroutineType(types: {self._node(f'!{{{listed}}}')})")
        scope = self._distinct(
            f'!DISubprogram(name: "{signature.function.__qualname__}", linkageName: "{signature.symbol}", '
            f"scope: {file}, "
            f"file: {file}, line: {line}, type: {kind}, scopeLine: {line}, flags: DIFlagPrototyped, "
            f"spFlags: DISPFlagDefinition | DISPFlagOptimized, unit: {self._unit}, retainedNodes: {self._empty})"
        )
        return scope, f" !dbg {scope}"

    def locals(self, body: Body, function: tree.Function) -> list[str]:
        """Records that tie slots to variables; the compiler's own have no name."""
        file = self._file(function.signature.source.path)
        found: list[str] = []
        positions = {parameter: number for number, parameter in enumerate(function.signature.parameters, 1)}
        for variable, slot in body.slots.items():
            if not variable.name:
                continue
            argument = f"arg: {positions[variable]}, " if variable in positions else ""
            node = self._node(
                f'!DILocalVariable(name: "{variable.name}", {argument}scope: {body.scope}, file: {file}, '
                f"line: {variable.at[0]}, type: {self.type(variable.type)})"
            )
            place = self.location(variable.at, body.scope)
            found.append(f"  #dbg_declare(ptr {slot}, {node}, !DIExpression(), {place})")
        return found

    def variable(self, item: Storage, local: bool, unique: bool) -> str:
        """gdb finds a variable by its linkage name; one whose short name is unique also has that."""
        whole = self._variable(item, local, f'linkageName: "{item.name}", ')
        return whole + (self._variable(item, local, "") if unique else "")

    def _variable(self, item: Storage, local: bool, linkage: str) -> str:
        name = item.name.rpartition(".")[2]
        kind = self.type(item.type)
        file = self._file(item.module.replace(".", "/") + ".py")
        node = self._distinct(
            f'!DIGlobalVariable(name: "{name}", {linkage}scope: {self._unit}, file: {file}, '
            f"type: {kind}, isLocal: {'true' if local else 'false'}, isDefinition: true)"
        )
        expression = self._node(f"!DIGlobalVariableExpression(var: {node}, expr: !DIExpression())")
        self._globals.append(expression)
        return f", !dbg {expression}"

    def type(self, type: Type) -> str:
        """The node of a type, `null` for none."""
        if type in self._types:
            return self._types[type]
        if isinstance(type, LayoutType):
            return self._layout(type)
        found = self._simple(type)
        self._types[type] = found
        return found

    def _simple(self, type: Type) -> str:
        if isinstance(type, EnumType):
            members = ", ".join(
                self._node(f'!DIEnumerator(name: "{member.name}", value: {int(member)}{_unsigned(type.base)})')
                for member in type.enum
            )
            return self._node(
                f'!DICompositeType(tag: DW_TAG_enumeration_type, name: "{type}", baseType: {self.type(type.base)}, '
                f"size: {width(type)}, elements: {self._node(f'!{{{members}}}')})"
            )
        if isinstance(type, IntType | AddressType | BoolType | RegisterType):
            encoding = "DW_ATE_unsigned"
            if isinstance(type, BoolType):
                encoding = "DW_ATE_boolean"
            elif isinstance(type, IntType) and type.signed:
                encoding = "DW_ATE_signed"
            return self._node(f'!DIBasicType(name: "{type}", size: {size_of(type) * 8}, encoding: {encoding})')
        if isinstance(type, PointerType):
            return self._node(f"!DIDerivedType(tag: DW_TAG_pointer_type, baseType: {self.type(type.target)}, size: 64)")
        if isinstance(type, ArrayType) and type.count is not None:
            extent = self._node(f"!{{{self._node(f'!DISubrange(count: {type.count})')}}}")
            return self._node(
                f"!DICompositeType(tag: DW_TAG_array_type, baseType: {self.type(type.element)}, "
                f"size: {size_of(type) * 8}, elements: {extent})"
            )
        if isinstance(type, ArrayType):
            pointer = self._node(
                f"!DIDerivedType(tag: DW_TAG_pointer_type, baseType: {self.type(type.element)}, size: 64)"
            )
            return self._record(str(type), [("elements", pointer, 0, 64), ("count", self._word(), 64, 64)], 128)
        if isinstance(type, TupleType):
            return self._record(str(type), [], 64)
        return "null"

    def _word(self) -> str:
        return self._node('!DIBasicType(name: "u64", size: 64, encoding: DW_ATE_unsigned)')

    def _record(self, name: str, members: list[tuple[str, str, int, int]], size: int) -> str:
        return self._node(
            f'!DICompositeType(tag: DW_TAG_structure_type, name: "{name}", size: {size}, '
            f"elements: {self._members(members)})"
        )

    def _members(self, members: list[tuple[str, str, int, int]]) -> str:
        listed = ", ".join(
            self._node(
                f'!DIDerivedType(tag: DW_TAG_member, name: "{name}", baseType: {kind}, size: {size}, offset: {offset})'
            )
            for name, kind, offset, size in members
        )
        return self._node(f"!{{{listed}}}")

    def _layout(self, type: LayoutType) -> str:
        name = self._reserve()
        self._types[type] = name  # structs may refer to themselves
        members = [
            (field.name, self.type(field.type), field.offset * 8, size_of(field.type) * 8)
            for field in type.layout.fields.values()
        ]
        self._set(
            name,
            f'distinct !DICompositeType(tag: DW_TAG_structure_type, name: "{type}", size: {type.size * 8}, '
            f"elements: {self._members(members)})",
        )
        return name

    def emit(self) -> list[str]:
        listed = ", ".join(self._globals)
        found = self._node(f"!{{{listed}}}")
        self._set(
            self._unit,
            f'distinct !DICompileUnit(language: DW_LANG_Python, file: {self._file("metal")}, producer: "metal", '
            f"isOptimized: true, runtimeVersion: 0, emissionKind: FullDebug, globals: {found})",
        )
        version = self._node('!{i32 2, !"Debug Info Version", i32 3}')
        dwarf = self._node('!{i32 7, !"Dwarf Version", i32 4}')
        lines = [f"!{self._first + index} = {text}" for index, text in enumerate(self._nodes)]
        return [f"!llvm.dbg.cu = !{{{self._unit}}}", f"!llvm.module.flags = !{{{version}, {dwarf}}}", *lines]


def _unsigned(base: IntType) -> str:
    return "" if base.signed else ", isUnsigned: true"
