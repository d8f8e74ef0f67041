# SPDX-License-Identifier: Apache-2.0
"""The core in parts: all of it, once, and a change moves only the parts that see it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gz.metal import zig
from gz.metal.compiler import load_program
from gz.metal.image import TARGET
from gz.metal.objects import PARTS, compile_parts
from gz.metal.partition import parse, split
from gz.metal.program import Program
from gz.metal.target import CORE

DEFINITION = re.compile(r"^define (?!available_externally)[^@]*(@[^(]+)\(", re.MULTILINE)
OPTIONS = ["-fno-pic", "-mcmodel=small"]


@pytest.fixture(scope="module")
def ir() -> str:
    return Program([], load_program("gz.core")).ir(CORE)


def test_every_function_and_storage_once(ir: str) -> None:
    parts = split(ir, PARTS)
    assert len(parts) == PARTS + 1
    assert sorted(name for part in parts for name in DEFINITION.findall(part)) == sorted(parse(ir).functions)
    storage = re.findall(r"^(@\S+) = internal global ", ir, re.MULTILINE)
    defined = [name for part in parts for name in re.findall(r"^(@\S+) = (?:internal|hidden) global ", part, re.M)]
    assert sorted(defined) == sorted(storage)


def test_small_functions_are_at_hand_for_inlining(ir: str) -> None:
    functions = parse(ir).functions
    for part in split(ir, PARTS):
        there = parse(part)
        missing = {name for name in functions if functions[name].copied and name in there.declarations}
        assert not missing


def test_a_change_inside_of_a_function_changes_few_parts(ir: str) -> None:
    large = next(one for one in parse(ir).functions.values() if not one.copied and "\nentry:\n" in one.text)
    changed = ir.replace(large.text, large.text.replace("\nentry:\n", "\nentry:\n  fence seq_cst\n", 1))
    before, after = split(ir, PARTS), split(changed, PARTS)
    assert sum(old != new for old, new in zip(before, after, strict=True)) == 1


def test_objects_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []

    def compile_ir(source: str, target: str, output: str, directory: Path, options: object) -> None:
        compiled.append((directory / source).read_text())
        (directory / output).write_text(source)

    monkeypatch.setattr(zig, "compile_ir", compile_ir)
    text = (
        "define internal void @a.{one}() {{\n  ret void\n}}\n\ndefine hidden void @b.two() {{\n  {body}ret void\n}}\n"
    )
    for build, body in (("first", ""), ("second", ""), ("third", "fence seq_cst\n  ")):
        directory = tmp_path / build
        directory.mkdir()
        found = compile_parts(text.format(one="one", body=body), TARGET, "x", directory, OPTIONS, tmp_path / "kept")
        assert all((directory / name).exists() for name in found)
    assert len(compiled) == 3 and "fence" in compiled[2]
