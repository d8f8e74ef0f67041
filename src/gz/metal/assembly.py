# SPDX-License-Identifier: Apache-2.0
"""Assembly text that modules declare at their top level: the vectors and the way from the loader."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Assembly:
    """A piece of assembly with the place of its declaration, for the assembler's messages."""

    text: str
    file: str
    line: int


_PIECES: dict[str, dict[int, Assembly]] = {}


def assembly(text: str) -> None:
    """Add assembly text to the programs that contain the calling module; it begins in section .text."""
    caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]
    module = str(caller.f_globals["__name__"])
    file = module.replace(".", "/") + ".py"
    _PIECES.setdefault(module, {})[caller.f_lineno] = Assembly(text, file, caller.f_lineno)


def pieces(module: str) -> tuple[Assembly, ...]:
    """What a module declared, in its order."""
    return tuple(_PIECES.get(module, {}).values())
