# SPDX-License-Identifier: Apache-2.0
"""Who calls whom in a linked image, and what that needs of the stack: from the machine code itself."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gz.metal import opcodes
from gz.metal.object_file import (
    SHF_ALLOC,
    SHN_UNDEF,
    SHT_RELA,
    STT_FILE,
    STT_FUNC,
    STT_SECTION,
    ObjectFile,
    Relocation,
    Section,
    Symbol,
)
from gz.metal.opcodes import Jump
from gz.metal.report import Chain

#: AAELF64: the branches; whatever else refers to code takes its address.
R_AARCH64_JUMP26, R_AARCH64_CALL26 = 282, 283

#: Behind these no instruction is reached that is not jumped to.
_LAST = frozenset({Jump.BRANCH, Jump.INDIRECT, Jump.END})


class RecursionFound(Exception):
    """A function may come back to itself; the text is the chain."""


@dataclass
class Function:
    """A stretch of code between two symbols. frame: bytes of stack it takes itself; the compiler says so,
    assembly is followed line by line (in_use: what it holds at the line reached)."""

    name: str
    start: int
    end: int
    compiled: bool
    frame: int = 0
    in_use: int = 0
    callees: set[str] = field(default_factory=set[str])
    indirect: bool = False
    surely_calls: bool = False
    fp_at: int | None = None


def _uleb128(data: bytes, offset: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
        shift += 7


def _stack_sizes(elf: ObjectFile) -> dict[int, int]:
    """Frames by function address, from -fstack-size-section."""
    sizes: dict[int, int] = {}
    for section in elf.sections:
        if section.name != ".stack_sizes":
            continue
        data, offset = elf.contents(section), 0
        while offset < len(data):
            address = int.from_bytes(data[offset : offset + 8], "little")
            sizes[address], offset = _uleb128(data, offset + 8)
    return sizes


def functions(elf: ObjectFile) -> dict[str, Function]:
    """All code, decoded: frames, calls and FP registers per function."""
    sections = elf.executable()
    frames = _stack_sizes(elf)
    names: dict[int, str] = {}
    data: dict[int, bool] = {}  # mapping symbols (AAELF64 5.7): $x code, $d data, from here on
    for symbol in sorted(elf.symbols, key=lambda one: (one.value, one.section, one.type, one.name)):
        if symbol.section not in sections or symbol.type in (STT_SECTION, STT_FILE):
            continue
        if symbol.name.startswith("$"):
            data[symbol.value] = symbol.name.startswith("$d")
        elif symbol.type == STT_FUNC or (symbol.value not in names and not symbol.name.startswith("__")):
            names[symbol.value] = symbol.name

    found: dict[str, Function] = {}
    for section in sections.values():
        start, end = section.address, section.address + section.size
        starts = sorted({start, *(address for address in names if start <= address < end)})
        here = [names.get(low, section.name) for low in starts]
        for name, low, high in zip(here, starts, [*starts[1:], end], strict=True):
            found[name] = Function(name, low, high, compiled=low in frames, frame=frames.get(low, 0))
        _Code(elf.contents(section), starts, here, data).read(found)
    return found


class _Code:
    """A section of code, and what is where in it."""

    def __init__(self, content: bytes, starts: list[int], names: list[str], data: Mapping[int, bool]) -> None:
        self.starts, self.names = starts, names
        self.words = memoryview(content[: len(content) & ~3]).cast("I")
        base, end = starts[0], starts[0] + len(content)
        edges = [base, *sorted(mark for mark in data if base < mark < end), end]
        self.data = [(low, high) for low, high in itertools.pairwise(edges) if data.get(low, False)]

    def read(self, found: Mapping[str, Function]) -> None:
        """Note in the functions what their instructions tell."""
        runs_on: Function | None = None
        for name in self.names:
            function = found[name]
            if runs_on is not None:  # assembly running on into the next label
                runs_on.callees.add(name)
            runs_on = function if self._function(function) else None

    def _function(self, function: Function) -> bool:
        """True if it may run on behind its end."""
        first = (function.start - self.starts[0]) // 4
        last: int | None = None
        for index, word in enumerate(self.words[first : (function.end - self.starts[0]) // 4], first):
            address = self.starts[0] + index * 4
            if self.data and any(low <= address < high for low, high in self.data):
                last = None
                continue
            last = word
            if function.fp_at is None and opcodes.uses_vectors(word):
                function.fp_at = address
            if opcodes.may_jump(word):
                self._jump(function, address, word)
            if not function.compiled:
                function.in_use = max(function.in_use + opcodes.stack_growth(word), 0)
                function.frame = max(function.frame, function.in_use)
        if last is None:
            return False
        jump = opcodes.jump(last)
        return jump is None or jump[0] not in _LAST

    def _jump(self, function: Function, address: int, word: int) -> None:
        jump = opcodes.jump(word)
        if jump is None:
            return
        kind, distance = jump
        if kind in (Jump.INDIRECT, Jump.INDIRECT_CALL):
            function.indirect = True
            function.surely_calls |= kind is Jump.INDIRECT_CALL  # br may also be a jump table's
        elif kind is not Jump.END:
            target = address + distance
            inside = function.start <= target < function.end
            if (kind is Jump.CALL or not inside) and self.starts[0] <= target:
                function.callees.add(self.names[bisect.bisect_right(self.starts, target) - 1])


def indirect_targets(objects: Collection[Path]) -> dict[str, frozenset[str]]:
    """What the indirect calls of each function may reach, from the object files: the functions in those
    tables that its section refers to; under the name "" all functions whose address anything takes."""
    reached: dict[str, frozenset[str]] = {}
    everything: set[str] = set()
    for path in objects:
        elf = ObjectFile(path)
        addresses = list(_addresses(elf))
        pointers = _pointers(elf, addresses)
        everything.update(*pointers.values())
        for name, sections in _references(elf, addresses).items():
            reached[name] = frozenset[str]().union(*(pointers.get(section, ()) for section in sections))
    reached[""] = frozenset(everything)
    return reached


def _addresses(elf: ObjectFile) -> Iterator[tuple[int, Relocation]]:
    """The relocations of memory's contents that are not branches, each with the section it stands in."""
    for table in elf.sections:
        if table.type != SHT_RELA or ".eh_frame" in table.name:
            continue
        if elf.sections[table.info].flags & SHF_ALLOC:
            for relocation in elf.relocations(table):
                if relocation.type not in (R_AARCH64_CALL26, R_AARCH64_JUMP26):
                    yield table.info, relocation


def _named(elf: ObjectFile, code: Mapping[int, Section]) -> Iterator[Symbol]:
    """The symbols of code that name it."""
    for symbol in elf.symbols:
        if symbol.section in code and symbol.type not in (STT_SECTION, STT_FILE) and not symbol.name.startswith("$"):
            yield symbol


def _pointers(elf: ObjectFile, addresses: Collection[tuple[int, Relocation]]) -> dict[int, set[str]]:
    """The functions whose addresses are taken, by the section in which: a table is a section of its own."""
    at = {(symbol.section, symbol.value): symbol.name for symbol in _named(elf, elf.executable())}
    found: dict[int, set[str]] = {}
    for section, relocation in addresses:
        symbol = elf.symbols[relocation.symbol]
        if symbol.section == SHN_UNDEF:
            found.setdefault(section, set()).add(symbol.name)
        elif (place := (symbol.section, symbol.value + relocation.addend)) in at:
            found.setdefault(section, set()).add(at[place])
    return found


def _references(elf: ObjectFile, addresses: Collection[tuple[int, Relocation]]) -> dict[str, set[int]]:
    """The sections of data that each function refers to, and its own."""
    code = elf.executable()
    inside: dict[int, set[str]] = {index: set() for index in code}
    for symbol in _named(elf, code):
        inside[symbol.section].add(symbol.name)
    used: dict[int, set[int]] = {index: {index} for index in code}
    for section, relocation in addresses:
        target = elf.symbols[relocation.symbol].section
        if section in code and target not in code:
            used[section].add(target)
    return {name: used[index] for index, names in inside.items() for name in names}


def stack_depths(graph: Mapping[str, Function], targets: Mapping[str, frozenset[str]]) -> dict[str, tuple[int, Chain]]:
    """For each function the bytes of stack that it and its callees need at most, and the chain of calls that
    needs them. `targets`: as indirect_targets gives them. RecursionFound if a chain returns to itself."""
    depths: dict[str, tuple[int, str | None]] = {}
    path: list[str] = []

    def visit(name: str) -> int:
        if name in depths:
            return depths[name][0]
        if name in path:
            raise RecursionFound(" → ".join([*path[path.index(name) :], name]))
        path.append(name)
        below, choice = 0, None
        for callee in _callees(graph, targets, name):
            if (reached := visit(callee)) > below:
                below, choice = reached, callee
        path.pop()
        depths[name] = graph[name].frame + below, choice
        return depths[name][0]

    answer: dict[str, tuple[int, Chain]] = {}
    for name in sorted(graph):
        depth = visit(name)
        chain: list[tuple[str, int]] = []
        at: str | None = name
        while at is not None:
            chain.append((at, graph[at].frame))
            at = depths[at][1]
        answer[name] = depth, tuple(chain)
    return answer


def _callees(graph: Mapping[str, Function], targets: Mapping[str, frozenset[str]], name: str) -> Iterator[str]:
    function = graph[name]
    called = set(function.callees)
    if function.indirect:
        everything = targets.get("", frozenset[str]()) if function.surely_calls else frozenset[str]()
        called |= targets.get(name) or everything
    for callee in sorted(called & graph.keys()):
        if callee != name or function.compiled:  # assembly may loop through a label of its own
            yield callee
