# SPDX-License-Identifier: Apache-2.0
"""Case files: `[case name]`, a metal source, and sections `[errors]` or `[ir]` that say what comes of it."""

from __future__ import annotations

import linecache
import sys
import types
from dataclasses import dataclass, field
from pathlib import Path

from gz.bits.annotation import LAYOUTS
from gz.metal.functions import marks

DIRECTORY = Path(__file__).with_name("cases")

PRELUDE: str = """\
from __future__ import annotations
from collections.abc import Callable
from enum import IntEnum
from typing import NoReturn
from gz.arm64.insn import at as at_, dc, doorbell, dsb, hvc, isb, smc, tlbi, wfi
from gz.arm64.sysreg import SysRegs, read, sysreg, write
from gz.bits import *
from gz.metal import *
import gz.arm64.sysreg as registers

class Colour(IntEnum):
    RED = 0
    GREEN = 1

@enumeration(u8)
class Small(IntEnum):
    ONE = 1
    TWO = 2

class Word(Register):
    HIGH = field(63, 32)
    LOW = field(7, 0)
    BIT = field(8)

class Uart(Window):
    DATA: u32 = at(0)
    FLAGS: u16 = at(4)
    BYTES: Array[u8] = array(8, at=8)
    WIDE: u64 = at(16)

class CasePoint(Struct):
    x: u32
    y: u32

class CaseNode(Struct):
    value: u64
    next: Ptr[CaseNode] | None
    owner: Ptr[CaseNode]
    point: CasePoint
    flag: bool
    small: Small
    word: Word
    bytes: Array[u8] = array(4)
    slots: Array[Ptr[CaseNode] | None] = array(2)

    def bump(self, by: u64) -> u64:
        self.value += by
        return self.value

NODES = storage(CaseNode, 4)
ONE = storage(CaseNode)
PRIMES = table(u32, [2, 3, 5])
SIZE = 4096
NAMES = ("a", "b")
NUMBERS = (1, 2, 3)
Handler = Callable[[CaseNode], u64]
"""


@dataclass
class Case:
    name: str
    source: str = ""
    sections: dict[str, str] = field(default_factory=dict[str, str])


def read(file: str) -> list[Case]:
    cases: list[Case] = []
    section = ""
    for line in (DIRECTORY / file).read_text().splitlines(keepends=True):
        if line.startswith("[case "):
            cases.append(Case(line[6:].rstrip().removesuffix("]")))
            section = ""
        elif line.startswith("[") and line.rstrip().endswith("]") and cases:
            section = line.strip()[1:-1]
            cases[-1].sections[section] = ""
        elif cases and section:
            cases[-1].sections[section] += line
        elif cases:
            cases[-1].source += line
    return cases


def load(case: Case, prelude: str = PRELUDE) -> types.ModuleType:
    """The case's source as a module that knows the prelude's names; its lines count from 1."""
    name, file = f"case_{case.name}", f"{case.name}.py"
    module = types.ModuleType(name)
    module.__file__ = file
    sys.modules[name] = module
    for declared in ("CaseNode", "CasePoint", "Uart"):
        LAYOUTS.pop(declared, None)
    linecache.cache["prelude.py"] = (len(prelude), None, prelude.splitlines(keepends=True), "prelude.py")
    exec(compile(prelude, "prelude.py", "exec"), vars(module))
    text = case.source
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    exec(compile("from __future__ import annotations\n", "future.py", "exec"), vars(module))
    exec(compile(text, file, "exec", flags=annotations_flag()), vars(module))
    return module


def annotations_flag() -> int:
    import __future__

    return __future__.annotations.compiler_flag


def functions(module: types.ModuleType) -> list[types.FunctionType]:
    """What the case itself defines."""
    file = module.__file__
    return [
        value
        for value in vars(module).values()
        if isinstance(value, types.FunctionType) and value.__code__.co_filename == file and "const" not in marks(value)
    ]
