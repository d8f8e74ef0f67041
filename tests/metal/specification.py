# SPDX-License-Identifier: Apache-2.0
"""The examples of docs/language.md: what each is, and what the compiler says to it."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from pathlib import Path

import case_files

from gz.bits.annotation import LAYOUTS
from gz.metal import CompileError, Program
from gz.metal.target import CORE

DOCUMENT = Path(__file__).parents[2] / "docs" / "language.md"
_BLOCK = re.compile(r"^```(python|text)\n(.*?)^```\n", re.S | re.M)
_COUNT = itertools.count()


@dataclass
class Example:
    """`messages` None: it is accepted. `line` is that of the document where the source begins."""

    line: int
    source: str
    messages: str | None = None


def read(text: str) -> tuple[str, list[Example]]:
    """What all examples begin with, and the examples."""
    found: list[Example] = []
    for block in _BLOCK.finditer(text):
        kind, content = block.groups()
        if kind == "python":
            found.append(Example(text.count("\n", 0, block.start()) + 2, content))
        else:
            assert found and found[-1].messages is None, f"messages without a source: {content}"
            found[-1].messages = content
    return found[0].source, found[1:]


def said(prelude: str, example: Example) -> str:
    """The compiler's messages; empty if it accepts."""
    name = f"example_{next(_COUNT)}"  # the reader remembers files
    declared = {layout: list(same) for layout, same in LAYOUTS.items()}
    try:
        module = case_files.load(case_files.Case(name, example.source), prelude)
        program = Program(roots=case_files.functions(module))
        program.functions  # noqa: B018 - checks everything
        program.ir(CORE)
    except CompileError as error:
        return f"{error}\n".replace(f"{name}.py:", "example.py:")
    except (TypeError, SyntaxError) as error:
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        return f"{type(error).__name__}: {message}\n"
    finally:
        LAYOUTS.clear()
        LAYOUTS.update(declared)
    return ""
