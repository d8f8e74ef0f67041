# SPDX-License-Identifier: Apache-2.0
"""What the compiler says when it refuses a program."""

from __future__ import annotations

import ast
import difflib
import os
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnostic:
    """One error. `line` and `column` count from 1, in characters; `width` is what the caret underlines."""

    file: str
    line: int
    column: int
    width: int
    message: str
    source: str = ""
    hint: str = ""

    def __str__(self) -> str:
        head = f"{shown_path(self.file)}:{self.line}:{self.column}: error: {self.message}"
        if not self.source:
            return head + (f"\n  {self.hint}" if self.hint else "")
        text = self.source.rstrip("\n").expandtabs(1)
        number = f"{self.line:5} | "
        caret = " " * 5 + " | " + " " * (self.column - 1) + "^" * self.width
        return f"{head}\n{number}{text}\n{caret}" + (f"  {self.hint}" if self.hint else "")


class CompileError(Exception):
    """The program is refused; `diagnostics` says why, in the order of the source."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(map(str, self.diagnostics)))


class Refusal(Exception):
    """One error, on its way to the statement that holds it. `node` None: the whole statement."""

    def __init__(self, node: ast.AST | None, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.node, self.message, self.hint = node, message, hint


class Poisoned(Exception):
    """The statement depends on something that has been refused already."""


def shown_path(file: str) -> str:
    """Relative to the working directory if it lies below."""
    relative = os.path.relpath(file) if os.path.isabs(file) else file
    return file if relative.startswith("..") else relative


def similar(name: str, names: Iterable[str]) -> str:
    """A hint that names what was probably meant, or nothing."""
    found = difflib.get_close_matches(name, list(names), 1, 0.7)
    return f"did you mean {found[0]}?" if found else ""
