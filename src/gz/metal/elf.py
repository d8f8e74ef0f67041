# SPDX-License-Identifier: Apache-2.0
"""What every linked image is held to: no relocations, W^X, no FP registers, no recursion, a bounded stack."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from elftools.elf.elffile import ELFFile

from gz.metal.call_graph import (
    SHF_ALLOC,
    Chain,
    RecursionFound,
    executable,
    functions,
    indirect_targets,
    stack_depths,
)

PF_X, PF_W = 1, 2

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
    objects: Collection[Path],
    *,
    stack_size: int,
    own_stacks: Mapping[str, int] | None = None,
) -> Measures:
    """Hold an image to the rules; `objects` is what it was linked from. `own_stacks`: functions that assembly
    calls on a stack of their own, and its size. CheckError lists every breach."""
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        problems = list(_structure(elf))
        graph = functions(elf)
        for function in graph.values():
            if function.compiled and function.fp_at is not None:
                problems.append(f"{function.name} uses an FP/SIMD register at {function.fp_at:#x}")
        text = sum(section["sh_size"] for section in executable(elf).values())
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
    with path.open("rb") as stream:
        segments = [segment for segment in ELFFile(stream).iter_segments() if segment["p_type"] == "PT_LOAD"]
        base = min(segment["p_vaddr"] for segment in segments)
        end = max(segment["p_vaddr"] + segment["p_filesz"] for segment in segments if segment["p_filesz"])
        flat = bytearray(end - base)
        for segment in segments:
            offset = segment["p_vaddr"] - base
            flat[offset : offset + segment["p_filesz"]] = segment.data()[: segment["p_filesz"]]
    return bytes(flat)
