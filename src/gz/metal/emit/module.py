# SPDX-License-Identifier: Apache-2.0
"""A whole program as one LLVM module."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from gz.bits.storage import Storage, Table
from gz.bits.types import BOOL, NEVER, LayoutType, Type, align_of, size_of
from gz.bits.view import store
from gz.metal import tree
from gz.metal.emit import statements, values
from gz.metal.emit.body import Body
from gz.metal.emit.debug import Debug, NoDebug
from gz.metal.emit.failures import Failures
from gz.metal.emit.instructions import FAKE_CPU
from gz.metal.emit.text import byte_string, symbol, value_type
from gz.metal.errors import CompileError, Diagnostic, Refusal
from gz.metal.target import Machine, Target

if TYPE_CHECKING:
    from gz.metal.program import Program


class Module:
    """The text of a program for one target."""

    unlikely = ", !prof !0"

    def __init__(self, program: Program, target: Target) -> None:
        self.program, self.target = program, target
        #: In the order of the sources, whoever calls whom: what a file's functions are called stays with the file.
        self.functions = sorted(program.functions.values(), key=_place)
        self.hooks = {} if target.fake else program.hooks
        self.roots = frozenset(program.symbol(root) for root in program.roots)
        #: Functions that the sinks of log and panic use: they can't log, or can't panic, themselves.
        self.within_sinks = program.reached(hook for kind, hook in self.hooks.items() if kind != "panic")
        self.within_hooks = program.reached(self.hooks.values())
        self.failures = Failures(self, sorted({_place(function)[0] for function in self.functions}))
        self.debug = Debug(2) if target.debug else NoDebug()
        self._declarations: dict[str, None] = {}
        self._objects: dict[Storage | Table, str] = {}
        self._object_lines: list[str] = []
        self._texts: dict[str, dict[str, str]] = {}
        self._externs: dict[str, str] = {}
        self._fake_cpu = False
        self._outside = frozenset(one.signature.symbol for one in self.functions if one.body is None)

    def emit(self) -> str:
        """The module's text. CompileError for what the target does not have."""
        bodies: list[str] = []
        errors: list[Diagnostic] = []
        for function in self.functions:
            try:
                bodies.append(self._function(function))
            except CompileError as error:
                errors.extend(error.diagnostics)
        if errors:
            raise CompileError(errors)
        if self.target.fake:
            self._all_storage()
        failures = self.failures.emit()
        head = [
            f'target datalayout = "{self.target.datalayout}"',
            f'target triple = "{self.target.triple}"',
        ]
        if self._fake_cpu or self.target.fake:
            head.append(FAKE_CPU)
        return "\n".join(
            [
                *head,
                *self._object_lines,
                *self._externs.values(),
                *failures,
                *bodies,
                *self._declarations,
                self._attributes(),
                '!0 = !{!"branch_weights", i32 1048575, i32 1}',
                *self.debug.emit(),
                "",
            ]
        )

    def declare(self, text: str) -> None:
        """Note a declaration that the text needs."""
        self._declarations[text] = None

    def need_fake_cpu(self) -> None:
        """Note that the text uses the fake CPU."""
        self._fake_cpu = True

    def text(self, body: Body, text: str) -> tuple[str, int]:
        """A constant text of a function: its name and length in bytes."""
        content, home = text.encode(), body.signature.function.__module__
        known = self._texts.setdefault(home, {})
        if text not in known:
            known[text] = symbol(f"gz.text.{home}.{len(known)}")
            self._object_lines.append(
                f"{known[text]} = private unnamed_addr constant [{len(content)} x i8] {byte_string(content)}, align 1"
            )
        return known[text], len(content)

    def global_object(self, item: Storage | Table) -> str:
        """The symbol of storage or of a table, defined at its first use."""
        if item not in self._objects:
            self._objects[item] = symbol(item.name)
            self._object_lines.append(self._definition(item))
        return self._objects[item]

    def _all_storage(self) -> None:
        """Tests may look at storage that no function of the program uses."""
        names = [one.signature.function.__module__ for one in self.functions]
        packages = {name.rpartition(".")[0] for name in names if "." in name}
        for name in sorted({*names, *(name for name in sys.modules if name.rpartition(".")[0] in packages)}):
            for item in list(vars(sys.modules[name]).values()) if name in sys.modules else ():
                if isinstance(item, Storage):
                    self.global_object(item)

    @property
    def storage(self) -> list[Storage]:
        """What the functions use, once the text has been made."""
        return [item for item in self._objects if isinstance(item, Storage)]

    def name(self, signature: tree.Signature) -> str:
        """A function's symbol; in a process C names belong to the C library, so full names stand there."""
        return symbol(signature.name if self.target.fake else signature.symbol)

    def _definition(self, item: Storage | Table) -> str:
        name = self._objects[item]
        if isinstance(item, Storage):
            size, align = size_of(item.type), max(item.align, align_of(item.type))
            linkage = "global" if self.target.fake else "internal global"
            short = item.name.rpartition(".")[2]
            unique = sum(other.name.rpartition(".")[2] == short for other in self.storage) == 1
            debug = self.debug.variable(item, not self.target.fake, unique)
            return f"{name} = {linkage} [{size} x i8] zeroinitializer, align {align}{debug}"
        content = b"".join(_encode(item.element, value) for value in item.values)
        align = align_of(item.element)
        return f"{name} = internal constant [{len(content)} x i8] {byte_string(content)}, align {align}"

    def callee(self, body: Body, signature: tree.Signature) -> str:
        """What to call for a function: its symbol; where the CPU is fake, a slot stands for external ones."""
        if signature.symbol not in self._outside or not self.target.fake:
            return self.name(signature)
        slot = symbol(f"gz_jit_extern.{signature.symbol}")
        self._externs.setdefault(slot, f"{slot} = global ptr null, align 8")
        function = body.let(f"load ptr, ptr {slot}, align 8")
        there = body.let(f"icmp ne ptr {function}, null")
        body.require(there, f"nothing stands for the external function {signature.symbol}")
        return function

    def _linkage(self, signature: tree.Signature) -> str:
        outside = "export" in signature.marks or signature.symbol in self.roots
        if self.target.machine is Machine.EL2:
            return "hidden " if "export" in signature.marks else "internal "
        return "" if outside else "internal "

    def _function(self, function: tree.Function) -> str:
        signature = function.signature
        if function.body is None:
            if self.target.fake:
                return ""
            kinds = ", ".join(value_type(parameter.type) for parameter in signature.parameters)
            hidden = "hidden " if self.target.machine is Machine.EL2 else ""
            result = value_type(signature.result)
            return f"declare {hidden}{result} {symbol(signature.symbol)}({kinds}) #0"
        body = Body(self, signature)
        scope, attachment = self.debug.function(function)
        body.scope = scope
        body.at((signature.source.definition.lineno, signature.source.definition.col_offset + 1))
        parameters: list[str] = []
        for number, parameter in enumerate(signature.parameters):
            parameters.append(f"{value_type(parameter.type)} %p{number}")
            values.assign(body, parameter, f"%p{number}")
        try:
            statements.block(body, function.body)
        except Refusal as refusal:
            raise CompileError([signature.source.at(body.position, refusal.message, refusal.hint)]) from None
        if not body.terminated:
            body.end(
                "ret void"
                if value_type(signature.result) == "void" and signature.result is not NEVER
                else "unreachable"
            )
        records = self.debug.locals(body, function)
        flags = self._flags(signature)
        result = value_type(signature.result)
        if signature.result is BOOL:
            result = f"zeroext {result}"
        head = f"{self.name(signature)}({', '.join(parameters)}){flags} #0{attachment} {{"
        head = f"define {self._linkage(signature)}{result} {head}"
        return "\n".join([head, "entry:", *body.entry, *records, *body.lines, "}\n"])

    def _flags(self, signature: tree.Signature) -> str:
        flags = ""
        for mark, flag in (("inline", "alwaysinline"), ("noinline", "noinline"), ("cold", "cold")):
            if mark in signature.marks:
                flags += f" {flag}"
        if signature.result is NEVER:
            flags += " noreturn"
        hooks = [hook.symbol for hook in self.hooks.values()]
        if signature.symbol in hooks and "noinline" not in flags:
            flags += " noinline"
        return flags

    def _attributes(self) -> str:
        features = f' "target-features"="{self.target.features}"' if self.target.features else ""
        frame = ' "frame-pointer"="non-leaf"' if self.target.machine is Machine.EL2 else ""
        return f'attributes #0 = {{ nounwind null_pointer_is_valid "no-builtins"{frame}{features} }}'


def _place(function: tree.Function) -> tuple[str, int]:
    source = function.signature.source
    return source.path, source.definition.lineno


def _encode(type: Type, value: Any) -> bytes:
    content = bytearray(size_of(type))
    if isinstance(type, LayoutType):
        view = type.layout.view(content)
        for name, part in value.items():
            _fill(view, name, part)
    else:
        store(memoryview(content), 0, type, value)
    return bytes(content)


def _fill(view: object, name: str, value: object) -> None:
    """A field of a struct from a number, a dict of its fields or a sequence of its elements."""
    current = getattr(view, name)
    if isinstance(value, dict):
        for inner, part in cast("dict[str, object]", value).items():
            _fill(current, inner, part)
    elif isinstance(value, list | tuple):
        for index, part in enumerate(cast("Sequence[object]", value)):
            current[index] = part
    else:
        setattr(view, name, value)
