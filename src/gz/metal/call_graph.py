# SPDX-License-Identifier: Apache-2.0
"""Who calls whom in a linked image, and what that needs of the stack: from the machine code itself."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import capstone
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, SymbolTableSection

SHF_ALLOC, SHF_EXECINSTR = 2, 4

FP_REGISTER = re.compile(r"\b(?:[qv]\d+|[dshb](?:3[01]|[12]?\d))\b")

#: How assembly moves its stack pointer: `sub sp, sp, #n`, `add sp, sp, #n`, `[sp, #-n]!`, `[sp], #n`.
STACK_MOVES = re.compile(r"^sp, sp, #(?P<by>\w+)|\[sp, #-(?P<push>\w+)\]!|\[sp\], #(?P<pop>\w+)")

#: AAELF64: the branches; whatever else refers to code takes its address.
R_AARCH64_JUMP26, R_AARCH64_CALL26 = 282, 283
RETURNS = frozenset({"ret", "eret", "br", "b", "brk", "udf"})


#: Functions with their frames, from the outermost to the innermost.
Chain = tuple[tuple[str, int], ...]


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
    callees: set[str] = field(default_factory=set)
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


def _stack_sizes(elf: ELFFile) -> dict[int, int]:
    """Frames by function address, from -fstack-size-section."""
    sizes = {}
    for section in elf.iter_sections():
        if section.name != ".stack_sizes":
            continue
        data, offset = section.data(), 0
        while offset < len(data):
            address = int.from_bytes(data[offset : offset + 8], "little")
            sizes[address], offset = _uleb128(data, offset + 8)
    return sizes


def _symbols(elf: ELFFile) -> Iterator[tuple[int, int, str, str]]:
    """(address, section index, type, name) of all defined symbols."""
    for table in elf.iter_sections():
        if isinstance(table, SymbolTableSection):
            for symbol in table.iter_symbols():
                if isinstance(symbol["st_shndx"], int):
                    yield symbol["st_value"], symbol["st_shndx"], symbol["st_info"]["type"], symbol.name


def executable(elf: ELFFile) -> dict[int, Section]:
    """The sections with code, by index."""
    return {
        index: section
        for index, section in enumerate(elf.iter_sections())
        if section["sh_flags"] & SHF_EXECINSTR and section["sh_size"]
    }


def functions(elf: ELFFile) -> dict[str, Function]:
    """All code, disassembled: frames, calls and FP registers per function."""
    sections = executable(elf)
    frames = _stack_sizes(elf)
    names: dict[int, str] = {}
    data: dict[int, bool] = {}  # mapping symbols (AAELF64 5.7): $x code, $d data, from here on
    for address, index, kind, name in sorted(_symbols(elf)):
        if index not in sections or kind in ("STT_SECTION", "STT_FILE"):
            continue
        if name.startswith("$"):
            data[address] = name.startswith("$d")
        elif not name.startswith("__") and (kind == "STT_FUNC" or address not in names):
            names[address] = name

    found: dict[str, Function] = {}
    for section in sections.values():
        start, end = section["sh_addr"], section["sh_addr"] + section["sh_size"]
        starts = sorted({start, *(address for address in names if start <= address < end)})
        for low, high in zip(starts, [*starts[1:], end], strict=True):
            name = names.get(low, str(section.name))
            function = Function(name, low, high, compiled=low in frames, frame=frames.get(low, 0))
            found[function.name] = function
        _disassemble(section, starts, [names.get(low, str(section.name)) for low in starts], data, found)
    return found


def _disassemble(
    section: Section,
    starts: list[int],
    names: list[str],
    data: Mapping[int, bool],
    found: dict[str, Function],
) -> None:
    decoder = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    base, code = section["sh_addr"], section.data()
    marks = sorted(address for address in data if base <= address < base + len(code))
    edges = [base, *(mark for mark in marks if mark > base), base + len(code)]
    position = -1
    falls_from: str | None = None
    for low, high in itertools.pairwise(edges):
        if data.get(low, False):
            falls_from = None
            continue
        offset = low
        while offset < high:
            for address, _, mnemonic, operands in decoder.disasm_lite(code[offset - base : high - base], offset):
                offset = address + 4
                if (index := bisect.bisect_right(starts, address) - 1) != position:
                    position = index
                    if falls_from is not None:  # assembly running on into the next label
                        found[falls_from].callees.add(names[index])
                name = names[position]
                _note(found[name], address, mnemonic, operands, starts, names)
                falls_from = None if mnemonic in RETURNS else name
            if offset < high:  # not an instruction capstone knows: a newer system instruction
                offset += 4


def _note(function: Function, address: int, mnemonic: str, operands: str, starts: list[int], names: list[str]) -> None:
    """What one instruction tells about its function."""
    if function.fp_at is None and FP_REGISTER.search(operands):
        function.fp_at = address
    if mnemonic in ("blr", "br"):
        function.indirect = True
        function.surely_calls |= mnemonic == "blr"  # br may also be a jump table's
    elif mnemonic.startswith(("b", "cb", "tb")) and "#" in operands:
        target = int(operands.rsplit("#", 1)[1], 0)
        inside = function.start <= target < function.end
        if (mnemonic == "bl" or not inside) and starts[0] <= target:
            function.callees.add(names[bisect.bisect_right(starts, target) - 1])
    if not function.compiled and (move := STACK_MOVES.search(operands)):
        amount = int(move["by"] or move["push"] or move["pop"], 0)
        down = move["push"] is not None or (move["by"] is not None and mnemonic == "sub")
        function.in_use = max(function.in_use + (amount if down else -amount), 0)
        function.frame = max(function.frame, function.in_use)


def indirect_targets(objects: Collection[Path]) -> dict[str, frozenset[str]]:
    """What the indirect calls of each function may reach, from the object files: the functions in those
    tables that its section refers to; under the name "" all functions whose address anything takes."""
    reached: dict[str, frozenset[str]] = {}
    everything: set[str] = set()
    for path in objects:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            pointers = _pointers(elf)
            everything.update(*pointers.values())
            for name, sections in _references(elf).items():
                reached[name] = frozenset().union(*(pointers.get(section, ()) for section in sections))
    reached[""] = frozenset(everything)
    return reached


def _relocations(elf: ELFFile) -> Iterator[tuple[int, int, Any, int]]:
    """(section and offset they stand at, symbol, addend) of the relocations that are not branches."""
    symtab = elf.get_section_by_name(".symtab")
    assert isinstance(symtab, SymbolTableSection)
    for table in elf.iter_sections():
        if not isinstance(table, RelocationSection) or ".eh_frame" in table.name:
            continue
        if not elf.get_section(table["sh_info"])["sh_flags"] & SHF_ALLOC:
            continue
        for relocation in table.iter_relocations():
            if relocation["r_info_type"] not in (R_AARCH64_CALL26, R_AARCH64_JUMP26):
                symbol = symtab.get_symbol(relocation["r_info_sym"])
                yield table["sh_info"], relocation["r_offset"], symbol, relocation["r_addend"]


def _pointers(elf: ELFFile) -> dict[int, set[str]]:
    """The functions whose addresses are taken, by the section in which: a table is a section of its own."""
    code = executable(elf)
    at = {
        (index, address): name
        for address, index, kind, name in _symbols(elf)
        if index in code and kind != "STT_SECTION" and not name.startswith("$")
    }
    found: dict[int, set[str]] = {}
    for section, _, symbol, addend in _relocations(elf):
        if symbol["st_shndx"] == "SHN_UNDEF":
            found.setdefault(section, set()).add(symbol.name)
        elif (place := (symbol["st_shndx"], symbol["st_value"] + addend)) in at:
            found.setdefault(section, set()).add(at[place])
    return found


def _references(elf: ELFFile) -> dict[str, set[int]]:
    """The sections of data that each function refers to, and its own."""
    code = executable(elf)
    inside: dict[int, set[str]] = {index: set() for index in code}
    for _, index, kind, name in _symbols(elf):
        if index in code and kind not in ("STT_SECTION", "STT_FILE") and not name.startswith("$"):
            inside[index].add(name)
    used: dict[int, set[int]] = {index: {index} for index in code}
    for section, _, symbol, _ in _relocations(elf):
        if section in code and symbol["st_shndx"] not in code:
            used[section].add(symbol["st_shndx"])
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

    answer = {}
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
        everything = targets.get("", frozenset()) if function.surely_calls else frozenset()
        called |= targets.get(name) or everything
    for callee in sorted(called & graph.keys()):
        if callee != name or function.compiled:  # assembly may loop through a label of its own
            yield callee
