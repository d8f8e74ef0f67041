# SPDX-License-Identifier: Apache-2.0
"""Loops: how often they turn, and with what; as in Python, to the ends of the types."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import case_files

from gz.metal import Program

BODY = """
def f_{name}(a: {type}, b: {type}) -> u64:
    found: u64 = 0
    for i in range({range}):
        found = found * 31 + u64(i) + 1
    return found
"""
NESTED = """
def nested(rows: u64, columns: u64) -> u64:
    found: u64 = 0
    for i in range(rows):
        j: u64 = 0
        while j < columns:
            j += 1
            if j == i + 1:
                continue
            for k in unroll((1, 2)):
                if j == 3 + k:
                    continue
                found = found * 31 + i * 100 + j * 10 + k
            if j > i + 4:
                break
        if i == 3:
            continue
        found += 7
    return found
"""
STEPS = (1, 2, 3, 7, -1, -2, -3, -7)
TYPES = {"u8": (0, 1, 2, 5, 6, 7, 249, 250, 254, 255), "i8": (-128, -127, -5, -1, 0, 1, 6, 7, 126, 127)}


def model(turns: range) -> int:
    found = 0
    for i in turns:
        found = (found * 31 + i + 1) % (1 << 64)
    return found


Functions = Callable[[str], Callable[..., Any]]


@pytest.fixture(scope="module")
def functions() -> Functions:
    source = "".join(
        BODY.format(name=f"{type}_{index}", type=type, range=f"a, b, {step}")
        for type in TYPES
        for index, step in enumerate(STEPS)
    )
    source += "".join(
        BODY.format(name=f"down_{index}", type="u8", range=f"a, -1, {step}") for index, step in enumerate(STEPS[4:])
    )
    source += NESTED
    module = case_files.load(case_files.Case("ranges", source))
    jit = Program(roots=case_files.functions(module)).jit()

    def function(name: str) -> Callable[..., Any]:
        return jit.fn(getattr(module, name))

    return function


@pytest.mark.parametrize("type", TYPES)
@pytest.mark.parametrize("index", range(len(STEPS)))
def test_ranges(functions: Functions, type: str, index: int) -> None:
    function = functions(f"f_{type}_{index}")
    for a in TYPES[type]:
        for b in TYPES[type]:
            assert function(a, b) == model(range(a, b, STEPS[index])), (a, b)


@pytest.mark.parametrize("index", range(4))
def test_down_to_zero(functions: Functions, index: int) -> None:
    function = functions(f"f_down_{index}")
    for a in TYPES["u8"]:
        assert function(a, 0) == model(range(a, -1, STEPS[4 + index])), a


def test_break_and_continue_are_those_of_the_innermost_loop(functions: Functions) -> None:
    names: dict[str, Any] = {"unroll": iter, "u64": int}
    exec(NESTED, names)
    for rows in range(6):
        for columns in range(9):
            assert functions("nested")(rows, columns) == names["nested"](rows, columns) % (1 << 64)
