# SPDX-License-Identifier: Apache-2.0
"""Every operator at the ends of every type: Python's result, wrapped."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import case_files

from gz.metal import Panic, Program
from gz.metal.jit import Jit

OPERATORS: dict[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
}
WIDTHS = (8, 16, 32, 64)
TYPES = tuple(f"{sign}{bits}" for sign in "ui" for bits in WIDTHS)


def ends(type: str) -> list[int]:
    """What lies at the ends of `type` and beside zero."""
    bits = int(type[1:])
    low, high = (-1 << bits - 1, 1 << bits - 1) if type[0] == "i" else (0, 1 << bits)
    near = {low, low + 1, -7, -2, -1, 0, 1, 2, 3, 7, 10, high // 2, high - 2, high - 1}
    return sorted(value for value in near if low <= value < high)


def wrap(type: str, value: int) -> int:
    bits = int(type[1:])
    value %= 1 << bits
    return value - (1 << bits) if type[0] == "i" and value >> bits - 1 else value


def name(type: str, sign: str) -> str:
    return f"f_{type}_{list(OPERATORS).index(sign)}"


@pytest.fixture(scope="module")
def compiled() -> tuple[ModuleType, Jit]:
    source = "".join(
        f"def {name(type, sign)}(a: {type}, b: {type}) -> {'bool' if sign in ('<', '<=', '==') else type}:\n"
        f"    return a {sign} b\n"
        for type in TYPES
        for sign in OPERATORS
    )
    module = case_files.load(case_files.Case("arithmetic", source))
    return module, Program(roots=case_files.functions(module)).jit()


@pytest.mark.parametrize("sign", OPERATORS)
@pytest.mark.parametrize("type", TYPES)
def test_operators_at_the_ends_of_types(compiled: tuple[ModuleType, Jit], type: str, sign: str) -> None:
    module, jit = compiled
    function: Callable[..., Any] = jit.fn(getattr(module, name(type, sign)))
    for a in ends(type):
        for b in ends(type):
            if b == 0 and sign in ("//", "%"):
                with pytest.raises(Panic, match="division by zero"):
                    function(a, b)
            else:
                assert function(a, b) == wrap(type, OPERATORS[sign](a, b)), (a, b)
