# SPDX-License-Identifier: Apache-2.0
"""From a live function to its syntax tree, with the places its text came from."""

from __future__ import annotations

import ast
import functools
import inspect
import linecache
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

from gz.metal.errors import CompileError, Diagnostic

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, eq=False)
class Source:
    """A function's syntax; positions in `definition` are those of the file."""

    function: Callable[..., Any]
    definition: ast.FunctionDef
    file: str

    @property
    def lines(self) -> list[str]:
        """The lines of the file."""
        return linecache.getlines(self.file, self.function.__globals__)

    @property
    def path(self) -> str:
        """The file as it stands in messages and debug information of the output: the same wherever the tree lies."""
        return stable_path(self.function.__module__, self.file)

    def diagnostic(self, node: ast.AST | None, message: str, hint: str = "") -> Diagnostic:
        """The error at a node of this function."""
        place: Any = node if hasattr(node, "lineno") else self.definition
        line = place.lineno
        text = self._line(line)
        start = _column(text, place.col_offset)
        width = 1
        if isinstance(place, ast.FunctionDef):
            start = text.find(place.name, text.find("def", start) + 3)
            width = len(place.name)
        elif place.end_lineno == line and place.end_col_offset is not None:
            width = _column(text, place.end_col_offset) - start
        elif place.end_lineno is not None:
            width = len(text.rstrip()) - start
        return Diagnostic(self.file, line, start + 1, max(width, 1), message, text, hint)

    def at(self, position: tuple[int, int], message: str, hint: str = "") -> Diagnostic:
        """The error at a line and a column (from 1, in bytes)."""
        text = self._line(position[0])
        return Diagnostic(self.file, position[0], _column(text, position[1] - 1) + 1, 1, message, text, hint)

    def _line(self, number: int) -> str:
        return self.lines[number - 1] if number <= len(self.lines) else ""


def _column(line: str, offset: int) -> int:
    """A column of the syntax tree, which counts bytes from 0, in characters."""
    return len(line.encode()[:offset].decode(errors="replace"))


@functools.cache
def stable_path(module: str, file: str) -> str:
    """A module's file below the root of its packages."""
    parts = os.path.abspath(file).split(os.sep)
    depth = module.count(".") + 1 + (parts[-1] == "__init__.py")
    if module == "__main__" or ("." not in module and parts[-1] != "__init__.py"):
        depth = 1
    if len(parts) > depth + 1 and parts[-depth - 1] == "src":
        depth += 1
    return "/".join(parts[-depth:])


def unwrap(function: Callable[..., Any]) -> FunctionType:
    """The function that decorators were put around. TypeError if there is none in Python."""
    found: Any = inspect.unwrap(function)
    if type(found) in (staticmethod, classmethod) or inspect.ismethod(found):
        found = found.__func__
    if not isinstance(found, FunctionType):
        raise TypeError(f"{function!r} is no Python function")
    return found


@functools.cache
def read(function: FunctionType) -> Source:
    """Find the function's definition. CompileError if its text is not there or does not hold it."""
    code: CodeType = function.__code__
    definitions = _definitions(code.co_filename, function.__module__)
    found = definitions.get((code.co_firstlineno, code.co_name))
    if not isinstance(found, ast.FunctionDef):
        what = {"<lambda>": "a lambda is no function of the language: write a def"}.get(
            code.co_name, f"the source of {function.__qualname__} is not to be found in this file"
        )
        if isinstance(found, ast.AsyncFunctionDef):
            what = "async functions are not in the language"
        text = linecache.getline(code.co_filename, code.co_firstlineno, function.__globals__)
        column = len(text) - len(text.lstrip()) + 1
        raise CompileError(
            [Diagnostic(code.co_filename, code.co_firstlineno, column, max(len(text.strip()), 1), what, text)]
        )
    return Source(function, found, code.co_filename)


@functools.cache
def _definitions(file: str, module: str) -> dict[tuple[int, str], Definition]:
    names = vars(sys.modules[module]) if module in sys.modules else None
    text = "".join(linecache.getlines(file, names))
    try:
        tree = ast.parse(text, file)
    except SyntaxError as error:
        line = error.lineno or 1
        raise CompileError([Diagnostic(file, line, error.offset or 1, 1, error.msg, error.text or "")]) from None
    found: dict[tuple[int, str], Definition] = {}
    waiting: list[Any] = [tree]
    while waiting:
        for node in _blocks(waiting.pop()):
            waiting.append(node)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                first = node.decorator_list[0].lineno if node.decorator_list else node.lineno
                found[first, node.name] = node
    return found


def _blocks(node: ast.AST) -> Iterator[ast.AST]:
    """The statements inside a statement; functions are not found anywhere else."""
    for name in ("body", "orelse", "finalbody", "handlers", "cases"):
        part: Any = getattr(node, name, ())
        if isinstance(part, list):
            yield from part
