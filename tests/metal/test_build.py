# SPDX-License-Identifier: Apache-2.0
"""Builds: kept, renewed when sources change, the same everywhere, errors as text."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gz.metal import build
from gz.metal.symbols import Symbols

EMPTY = """# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from gz.metal import assembly, export

assembly('''
    .section .head.text, "ax"
    .global _start
_start:
    b start
    nop
    .quad 0, __image_size, 0xa, 0, 0, 0
    .ascii "ARM\\\\x64"
    .long 0
''')


@export
def start() -> None:
    while True:
        pass
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A source tree with payloads of its own, and an empty state directory."""
    monkeypatch.setenv("GZ_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "sources", lambda: sorted((tmp_path / "payloads").rglob("*.py")))
    (tmp_path / "payloads").mkdir()
    (tmp_path / "payloads" / "__init__.py").write_text("")
    (tmp_path / "payloads" / "empty.py").write_text(EMPTY)
    return tmp_path


def test_built_once_for_each_state_of_the_sources(tree: Path) -> None:
    first = build.build("payloads.empty")
    again = build.build("payloads.empty")
    assert (first.fresh, again.fresh) == (True, False)
    assert first.image == again.image and first.image.flat.read_bytes()[56:60] == b"ARM\x64"
    source = tree / "payloads" / "empty.py"
    source.write_text(EMPTY.replace("pass", "continue"))
    assert build.build("payloads.empty").fresh
    source.write_text(EMPTY)
    assert not build.build("payloads.empty").fresh


def test_a_damaged_build_is_made_again(tree: Path) -> None:
    first = build.build("payloads.empty")
    (first.image.flat.parent / "report.json").write_text("{")
    assert build.build("payloads.empty").fresh


def test_report(tree: Path) -> None:
    facts = build.build("payloads.empty").as_json()
    assert set(facts) == {"text_bytes", "image_bytes", "worst_stack_bytes", "seconds"}
    assert 64 < facts["text_bytes"] < 200 and facts["seconds"] > 0


def test_errors_show_the_source(tree: Path) -> None:
    (tree / "payloads" / "empty.py").write_text(EMPTY.replace("while True", "while 1"))
    with pytest.raises(build.BuildError) as caught:
        build.build("payloads.empty")
    assert "payloads/empty.py:20:11: error: " in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert not list((tree / "state" / "builds").glob("payloads.empty-*"))


def test_assembler_errors_show_the_source(tree: Path) -> None:
    (tree / "payloads" / "empty.py").write_text(EMPTY.replace("    nop", "    nope"))
    with pytest.raises(build.BuildError, match=r"^payloads/empty.py:\d+:5: error: unrecognized instruction"):
        build.build("payloads.empty")


def test_changes_during_the_build_are_noticed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    states = iter(str(n) for n in range(100))

    def fingerprint(program: str) -> str:
        return next(states)

    monkeypatch.setattr(build, "fingerprint", fingerprint)
    with pytest.raises(build.BuildError, match="change faster than they compile"):
        build.build("payloads.empty")


def test_the_core_is_the_same_wherever_and_after_whatever_it_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its own tree from cold; and in a copy, with the objects that a change of one file left."""
    monkeypatch.setenv("GZ_STATE", str(tmp_path / "a"))
    began = time.process_time(), children_seconds()
    first = build.build("gz.core").image
    cold = time.process_time() - began[0] + children_seconds() - began[1]
    began = time.process_time(), children_seconds()
    assert not build.build("gz.core").fresh
    unchanged = time.process_time() - began[0] + children_seconds() - began[1]
    assert unchanged < cold / 20

    root = tmp_path / "somewhere" / "else"
    for name in ("src", "payloads"):
        shutil.copytree(build.ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("GZ_STATE", str(tmp_path / "b"))
    monkeypatch.setattr(build, "ROOT", root)
    monkeypatch.setattr(build, "SOURCES", root / "src" / "gz")
    slots = root / "src" / "gz" / "core" / "slots.py"
    contents = slots.read_text()
    slots.write_text("\n\n" + contents)
    moved = build.build("gz.core").image
    slots.write_text(contents)
    second = build.build("gz.core").image
    assert moved.elf.read_bytes() != first.elf.read_bytes()
    assert second.flat.read_bytes() == first.flat.read_bytes()
    assert second.elf.read_bytes() == first.elf.read_bytes()
    assert str(tmp_path).encode() not in second.elf.read_bytes()


def test_the_debugger_changes_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines and variables come by a build of their own, of the same image."""
    monkeypatch.setenv("GZ_STATE", str(tmp_path))
    plain, debug = build.build("gz.core").image, build.build("gz.core", debug=True).image
    assert plain.flat.read_bytes() == debug.flat.read_bytes()
    place = next(address for address, name in Symbols(plain.elf).functions if name == "gz.core.slots.find")
    told = [str(Symbols(made.elf).describe(place)) for made in (plain, debug)]
    assert ["slots.py:" in text for text in told] == [False, True], told
    assert build.symbols(plain.flat) == (debug.elf, True)
    elsewhere = tmp_path / "builds" / "gz.core-0123456789abcdef"
    plain.flat.parent.rename(elsewhere)
    assert build.symbols(elsewhere / plain.flat.name) == (elsewhere / plain.elf.name, False)


def children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def test_an_unchanged_program_needs_no_compiler(tree: Path) -> None:
    build.build("payloads.empty")
    code = (
        "import sys; from pathlib import Path; import gz.metal.build as build\n"
        f"build.ROOT = Path({str(tree)!r}); build.sources = lambda: sorted((build.ROOT / 'payloads').rglob('*.py'))\n"
        "assert not build.build('payloads.empty').fresh\n"
        "print([name for name in ('gz.metal.program', 'gz.metal.elf', 'elftools', 'llvmlite') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_old_builds_go_and_those_in_use_stay(tree: Path) -> None:
    def kept() -> set[Path]:
        return {path for path in builds.iterdir() if (path / "report.json").exists()}

    first = build.build("payloads.empty").image.flat.parent
    builds = first.parent
    copies = [builds / f"payloads.other-{number}" for number in range(build.KEPT + 2)]
    for copy in copies:
        shutil.copytree(first, copy)
    (tree / "payloads" / "empty.py").write_text(EMPTY + "\n")
    second = build.build("payloads.empty").image.flat.parent
    assert kept() == {first, second, *copies}
    hours_ago = time.time() - 2 * build.IN_USE
    for age, copy in enumerate(copies):
        os.utime(copy, (hours_ago - age, hours_ago - age))
    (tree / "payloads" / "empty.py").write_text(EMPTY + "\n\n")
    third = build.build("payloads.empty").image.flat.parent
    assert kept() == {first, second, third, *copies[: build.KEPT - 3]}
