# SPDX-License-Identifier: Apache-2.0
"""What every linked image is held to: no relocations, W^X, no FP registers, no recursion, a bounded stack."""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import capstone
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import Section, SymbolTableSection

SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR = 1, 2, 4
PF_X, PF_W = 1, 2

#: The sections the linker script places; any other that takes memory was not thought of.
ALLOCATED = frozenset({".text", ".rodata", ".data", ".bss", ".stacks"})

FP_REGISTER = re.compile(r"\b(?:[qv]\d+|[dshb](?:3[01]|[12]?\d))\b")

#: How assembly moves its stack pointer: `sub sp, sp, #n`, `add sp, sp, #n`, `[sp, #-n]!`, `[sp], #n`.
STACK_MOVES = re.compile(r"^sp, sp, #(?P<by>\w+)|\[sp, #-(?P<push>\w+)\]!|\[sp\], #(?P<pop>\w+)")

#: AAELF64: the branches; whatever else refers to code takes its address.
R_AARCH64_JUMP26, R_AARCH64_CALL26 = 282, 283
RETURNS = frozenset({"ret", "eret", "br", "b", "brk", "udf"})


#: Functions with their frames, from the outermost to the innermost.
Chain = tuple[tuple[str, int], ...]


class CheckError(Exception):
    """The image breaks rules; one line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class Measures:
    """Bytes. The chain leads from the outermost function to the innermost, each with its own frame."""

    text_bytes: int
    worst_stack_bytes: int
    worst_stack: Chain


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


def _executable(elf: ELFFile) -> dict[int, Section]:
    return {
        index: section
        for index, section in enumerate(elf.iter_sections())
        if section["sh_flags"] & SHF_EXECINSTR and section["sh_size"]
    }


def functions(elf: ELFFile) -> dict[str, Function]:
    """All code, disassembled: frames, calls and FP registers per function."""
    sections = _executable(elf)
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
            for address, _, mnemonic, operands in decoder.disasm_lite(
                code[offset - base : high - base], offset
            ):
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


def _note(
    function: Function, address: int, mnemonic: str, operands: str, starts: list[int], names: list[str]
) -> None:
    """What one instruction tells about its function."""
    if function.fp_at is None and FP_REGISTER.search(operands):
        function.fp_at = address
    if mnemonic in ("blr", "br"):
        function.indirect = True
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


def address_taken(objects: Collection[Path]) -> frozenset[str]:
    """The functions that something in these object files refers to other than by a direct branch."""
    taken: set[str] = set()
    for path in objects:
        with path.open("rb") as stream:
            elf = ELFFile(stream)
            sections = _executable(elf)
            at = {
                (index, address): name
                for address, index, kind, name in _symbols(elf)
                if index in sections and kind != "STT_SECTION" and not name.startswith("$")
            }
            symtab = elf.get_section_by_name(".symtab")
            assert isinstance(symtab, SymbolTableSection)
            for table in elf.iter_sections():
                if not isinstance(table, RelocationSection):
                    continue
                if not elf.get_section(table["sh_info"])["sh_flags"] & SHF_ALLOC:
                    continue
                if ".eh_frame" in table.name:
                    continue
                for relocation in table.iter_relocations():
                    if relocation["r_info_type"] in (R_AARCH64_CALL26, R_AARCH64_JUMP26):
                        continue
                    symbol = symtab.get_symbol(relocation["r_info_sym"])
                    if symbol["st_shndx"] == "SHN_UNDEF":
                        taken.add(symbol.name)
                    else:
                        place = symbol["st_shndx"], symbol["st_value"] + relocation["r_addend"]
                        if place in at:
                            taken.add(at[place])
    return frozenset(taken)


def stack_depths(
    graph: Mapping[str, Function], targets: Mapping[str, Collection[str]]
) -> dict[str, tuple[int, Chain]]:
    """For each function the bytes of stack that it and its callees need at most, and the chain of calls that
    needs them. `targets`: what a function's indirect calls reach. CheckError if a chain returns to itself."""
    depth: dict[str, int] = {}
    deepest: dict[str, str | None] = {}
    open_: list[str] = []

    def visit(name: str) -> int:
        if name in depth:
            return depth[name]
        if name in open_:
            cycle = [*open_[open_.index(name) :], name]
            raise CheckError(["recursion: " + " → ".join(cycle)])
        open_.append(name)
        function = graph[name]
        called = function.callees | (set(targets.get(name, ())) if function.indirect else set())
        below, choice = 0, None
        for callee in sorted(called & graph.keys()):
            if callee == name and not function.compiled:
                continue  # assembly that loops through a label of its own
            if (reached := visit(callee)) > below:
                below, choice = reached, callee
        open_.pop()
        deepest[name] = choice
        depth[name] = function.frame + below
        return depth[name]

    for name in sorted(graph):
        visit(name)
    answer = {}
    for name in graph:
        chain, at = [], name
        while at is not None:
            chain.append((at, graph[at].frame))
            at = deepest[at]
        answer[name] = depth[name], tuple(chain)
    return answer


def _structure(elf: ELFFile) -> Iterator[str]:
    """Breaches of the rules about sections and segments."""
    for section in elf.iter_sections():
        if section["sh_type"] in ("SHT_REL", "SHT_RELA", "SHT_RELR") and section["sh_size"]:
            yield f"relocations are left in {section.name}"
        if section["sh_flags"] & SHF_ALLOC and section["sh_size"] and section.name not in ALLOCATED:
            yield f"unexpected section {section.name}"
    for segment in elf.iter_segments():
        if segment["p_type"] in ("PT_DYNAMIC", "PT_INTERP"):
            yield f"{segment['p_type']} in a static image"
        if segment["p_type"] == "PT_LOAD" and segment["p_flags"] & PF_X and segment["p_flags"] & PF_W:
            yield f"the segment at {segment['p_vaddr']:#x} is writable and executable"


def check(
    path: Path,
    *,
    stack_size: int,
    own_stacks: Mapping[str, int] | None = None,
    taken: Collection[str] = (),
    indirect_calls: Mapping[str, Collection[str]] | None = None,
) -> Measures:
    """Hold a linked image to the rules. `own_stacks`: functions that assembly calls on a stack of their own,
    and its size. `taken`, `indirect_calls`: what indirect calls may reach, see image.build. CheckError lists
    every breach."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        problems = list(_structure(elf))
        graph = functions(elf)
        for function in graph.values():
            if function.compiled and function.fp_at is not None:
                problems.append(f"{function.name} uses an FP/SIMD register at {function.fp_at:#x}")
        text = sum(section["sh_size"] for section in _executable(elf).values())
    if indirect_calls is None:
        indirect_calls = {name: taken for name, function in graph.items() if function.compiled}
    try:
        depths = stack_depths(graph, indirect_calls)
    except CheckError as error:
        raise CheckError(problems + error.problems) from None
    deepest = max(sorted(depths), key=lambda name: depths[name][0])
    for name, limit in {deepest: stack_size, **(own_stacks or {})}.items():
        depth, chain = depths[name]
        if depth > limit:
            calls = " → ".join(f"{caller} {frame}" for caller, frame in chain)
            problems.append(f"the stack may need {depth} of {limit} bytes: {calls}")
    if problems:
        raise CheckError(problems)
    return Measures(text, *depths[deepest])


def flatten(path: Path) -> bytes:
    """The loadable segments' contents as one piece, from the lowest address to the last byte in the file."""
    with path.open("rb") as stream:
        segments = [segment for segment in ELFFile(stream).iter_segments() if segment["p_type"] == "PT_LOAD"]
        base = min(segment["p_vaddr"] for segment in segments)
        end = max(segment["p_vaddr"] + segment["p_filesz"] for segment in segments if segment["p_filesz"])
        flat = bytearray(end - base)
        for segment in segments:
            offset = segment["p_vaddr"] - base
            flat[offset : offset + segment["p_filesz"]] = segment.data()[: segment["p_filesz"]]
    return bytes(flat)
