# SPDX-License-Identifier: Apache-2.0
"""A program: the functions that its roots reach, checked, and what can be made of them."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from gz.bits.types import NEVER, NONE
from gz.metal import tree
from gz.metal.assembly import Assembly, pieces
from gz.metal.check.constants import written_tables
from gz.metal.check.function import check, signature
from gz.metal.emit.module import Module
from gz.metal.errors import CompileError, Diagnostic
from gz.metal.functions import HOOKS, hook_of, marks
from gz.metal.reader import unwrap
from gz.metal.target import CORE, CORE_BARE, JIT_ARM64, JIT_X86_64, Target
from gz.metal.tree import Signature, full_name

if TYPE_CHECKING:
    from gz.metal.image import Image
    from gz.metal.jit import Jit

if TYPE_CHECKING:
    from gz.metal.image import Image
    from gz.metal.jit import Jit


class Program:
    """`roots` and everything they call; `modules` add their @export functions, hooks and assembly."""

    def __init__(self, roots: Iterable[Callable[..., Any]], modules: Iterable[ModuleType] = ()) -> None:
        self.modules = tuple(modules)
        found = [unwrap(root) for root in roots]
        for module in self.modules:
            found += _own(module, lambda function: "export" in marks(function))
        self.roots: tuple[FunctionType, ...] = tuple(dict.fromkeys(found))
        self._signatures: dict[FunctionType, Signature] = {}
        self._symbols: dict[str, FunctionType] = {}
        self._waiting: list[FunctionType] = []
        self._refused: dict[FunctionType, CompileError] = {}

    def _declare(self, function: Callable[..., Any], owner: type | None) -> Signature:
        """The signature of a function; its body is checked later."""
        plain = unwrap(function)
        known = self._signatures.get(plain)
        if known is None:
            if plain in self._refused:
                raise CompileError([])
            try:
                known = signature(plain, owner, self._symbol(plain))
            except CompileError as error:
                self._refused[plain] = error
                raise
            self._signatures[plain] = known
            self._waiting.append(plain)
        return known

    def _symbol(self, function: FunctionType) -> str:
        name = function.__name__
        if not {"export", "extern"} & marks(function):
            name = full_name(function)
        unique, count = name, 1
        while self._symbols.setdefault(unique, function) is not function:
            count += 1
            unique = f"{name}.{count}"
        return unique

    @cached_property
    def hooks(self) -> dict[str, Signature]:
        """Hook name to function; looked for in the modules of the program's functions and in `modules`."""
        self.functions  # noqa: B018 - reaches everything
        return self._hooks

    @cached_property
    def functions(self) -> dict[str, tree.Function]:
        """Symbol to checked function, in the order in which they were reached. CompileError with all errors."""
        errors: list[Diagnostic] = []
        done: dict[FunctionType, tree.Function | None] = {}
        self._hooks: dict[str, Signature] = {}
        for root in self.roots:
            try:
                self._declare(root, None)
            except CompileError as error:
                errors += error.diagnostics
        while True:
            self._check_waiting(done, errors)
            try:
                if not self._find_hooks(list(done)):
                    break
            except CompileError as error:
                errors += error.diagnostics
                break
        for error in self._refused.values():
            errors += error.diagnostics
        if errors:
            raise CompileError(_in_order(errors))
        functions = {function.signature.symbol: function for function in done.values() if function is not None}
        _refuse_recursion(functions)
        errors = written_tables(functions)
        if errors:
            raise CompileError(_in_order(errors))
        return functions

    def _check_waiting(self, done: dict[FunctionType, tree.Function | None], errors: list[Diagnostic]) -> None:
        while self._waiting:
            function = self._waiting.pop(0)
            done[function] = None
            try:
                done[function] = check(self._signatures[function], self._declare)
            except CompileError as error:
                errors += error.diagnostics

    def _find_hooks(self, functions: Sequence[FunctionType]) -> bool:
        """Declare hooks of the modules reached; True if there are new ones to check."""
        names = dict.fromkeys([*(module.__name__ for module in self.modules), *(f.__module__ for f in functions)])
        for name in names:
            for function in _own(sys.modules.get(name), lambda function: hook_of(function) is not None):
                kind = hook_of(function)
                assert kind is not None
                found = self._declare(function, None)
                known = self._hooks.setdefault(kind, found)
                if known is not found:
                    message = f"{known.function.__qualname__} is the hook for {kind} already"
                    raise CompileError([found.source.diagnostic(None, message)])
                _check_hook(kind, found)
        return bool(self._waiting)

    def ir(self, target: Target) -> str:
        """LLVM IR of the whole program. CompileError with all errors."""
        return Module(self, target).emit()

    def reached(self, start: Iterable[Signature]) -> frozenset[str]:
        """The symbols of functions and of all that they call."""
        found: set[str] = set()
        waiting = [signature.symbol for signature in start]
        while waiting:
            symbol = waiting.pop()
            if symbol not in found:
                found.add(symbol)
                waiting += [callee.symbol for callee, _ in self.functions[symbol].calls]
        return frozenset(found)

    def jit(self, externs: Mapping[str, Callable[..., Any]] | None = None) -> Jit:
        """The program in this process; `externs` stand for @extern functions, by name."""
        from gz.metal.jit import Jit

        target = JIT_ARM64 if platform.machine() in ("aarch64", "arm64") else JIT_X86_64
        module = Module(self, target)
        ir = module.emit()
        return Jit(
            ir,
            roots={self._signatures[root].name: root for root in self.roots},
            storage={item.name: item for item in module.storage},
            extern_functions={
                function.signature.symbol: function.signature.function
                for function in self.functions.values()
                if function.body is None
            },
            externs=externs,
        )

    def image(self, directory: Path, *, debug: bool = True, **options: Any) -> Image:
        """Link for AArch64 at EL2 into a directory; options are those of gz.metal.image.build. The flat image is the
        same with and without debug information."""
        from gz.metal import image

        return image.build(self.ir(CORE if debug else CORE_BARE), self.assembly, directory, **options)

    def shared_object(self, directory: Path, name: str, target: Target) -> Path:
        """A library with the C calling convention for user space; the roots are its functions."""
        from gz.metal import shared_object

        return shared_object.build(self.ir(target), target, directory, name)

    def symbol(self, function: Callable[..., Any]) -> str:
        """The symbol of a function of the program."""
        self.functions  # noqa: B018
        return self._signatures[unwrap(function)].symbol

    def signature(self, function: Callable[..., Any]) -> Signature:
        """Parameters and result of a function of the program."""
        self.functions  # noqa: B018
        return self._signatures[unwrap(function)]

    @cached_property
    def assembly(self) -> tuple[Assembly, ...]:
        """The assembly texts of `modules` and of the modules of all functions."""
        names = [module.__name__ for module in self.modules]
        names += [function.signature.function.__module__ for function in self.functions.values()]
        return tuple(piece for name in dict.fromkeys(names) for piece in pieces(name))


def _in_order(errors: Iterable[Diagnostic]) -> list[Diagnostic]:
    return sorted(dict.fromkeys(errors), key=lambda one: (one.file, one.line, one.column))


def _own(module: ModuleType | None, wanted: Callable[[Any], bool]) -> list[FunctionType]:
    """The functions that a module itself defines, of those wanted."""
    return [
        value
        for value in list(vars(module).values() if module is not None else ())
        if isinstance(value, FunctionType) and module is not None and value.__module__ == module.__name__
        if wanted(value)
    ]


_HOOK_TYPES = {"text": ["Va", "u64"], "number": ["u64", "u32", "bool"], "panic": []}


def _check_hook(kind: str, found: Signature) -> None:
    kinds = [str(parameter.type) for parameter in found.parameters]
    result = NEVER if kind == "panic" else NONE
    if kinds != _HOOK_TYPES[kind] or found.result is not result:
        message = f'the hook "{kind}" is a function {HOOKS[kind]}'
        raise CompileError([found.source.diagnostic(None, message)])


def _refuse_recursion(functions: dict[str, tree.Function]) -> None:
    """No function reaches itself. CompileError at the call that closes the circle."""
    state: dict[str, int] = {}
    path: list[str] = []

    def visit(symbol: str) -> None:
        state[symbol] = 1
        path.append(symbol)
        for callee, node in functions[symbol].calls:
            if state.get(callee.symbol) == 1:
                circle = [*path[path.index(callee.symbol) :], callee.symbol]
                names = " → ".join(functions[name].signature.function.__qualname__ for name in circle)
                source = functions[symbol].signature.source
                raise CompileError([source.diagnostic(node, f"recursion is not in the language: {names}")])
            if callee.symbol not in state:
                visit(callee.symbol)
        path.pop()
        state[symbol] = 2

    for symbol in functions:
        if symbol not in state:
            visit(symbol)
