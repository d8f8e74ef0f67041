# SPDX-License-Identifier: Apache-2.0
"""What every linked image is held to: no relocations, W^X, no FP registers, no recursion, a bounded stack."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from gz.metal.call_graph import RecursionFound, functions, indirect_targets, stack_depths
from gz.metal.object_file import (
    PF_W,
    PF_X,
    PT_DYNAMIC,
    PT_INTERP,
    PT_LOAD,
    SHF_ALLOC,
    SHT_REL,
    SHT_RELA,
    SHT_RELR,
    ObjectFile,
)
from gz.metal.report import Chain

#: The sections the linker script places; any other that takes memory was not thought of.
ALLOCATED = frozenset({".text", ".rodata", ".data", ".bss", ".stacks"})


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


def _structure(elf: ObjectFile) -> Iterator[str]:
    """Breaches of the rules about sections and segments."""
    for section in elf.sections:
        if section.type in (SHT_REL, SHT_RELA, SHT_RELR) and section.size:
            yield f"relocations are left in {section.name}"
        if section.flags & SHF_ALLOC and section.size and section.name not in ALLOCATED:
            yield f"unexpected section {section.name}"
    for segment in elf.segments:
        if segment.type in (PT_DYNAMIC, PT_INTERP):
            yield "a static image has no dynamic linker"
        if segment.type == PT_LOAD and segment.flags & PF_X and segment.flags & PF_W:
            yield f"the segment at {segment.address:#x} is writable and executable"


def check(
    path: Path,
    objects: Collection[Path],
    *,
    stack_size: int,
    own_stacks: Mapping[str, int] | None = None,
) -> Measures:
    """Hold an image to the rules; `objects` is what it was linked from. `own_stacks`: functions that assembly
    calls on a stack of their own, and its size. CheckError lists every breach."""
    elf = ObjectFile(path)
    problems = list(_structure(elf))
    graph = functions(elf)
    for function in graph.values():
        if function.compiled and function.fp_at is not None:
            problems.append(f"{function.name} uses an FP/SIMD register at {function.fp_at:#x}")
    text = sum(section.size for section in elf.executable().values())
    try:
        depths = stack_depths(graph, indirect_targets(objects))
    except RecursionFound as error:
        raise CheckError([*problems, f"recursion: {error}"]) from None
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
    elf = ObjectFile(path)
    segments = [segment for segment in elf.segments if segment.type == PT_LOAD]
    base = min(segment.address for segment in segments)
    end = max(segment.address + segment.file_size for segment in segments if segment.file_size)
    flat = bytearray(end - base)
    for segment in segments:
        offset = segment.address - base
        flat[offset : offset + segment.file_size] = elf.contents(segment)
    return bytes(flat)
