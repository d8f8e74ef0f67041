# SPDX-License-Identifier: Apache-2.0
"""Builds: kept, renewed when sources change, the same everywhere, errors as text."""

from __future__ import annotations

from pathlib import Path

import pytest

from gz.metal import build
from gz.metal.image import Image

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


def test_the_core_is_the_same_wherever_it_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images: list[Image] = []
    for place in ("a", "somewhere/else"):
        monkeypatch.setenv("GZ_STATE", str(tmp_path / place))
        images.append(build.build("gz.core").image)
    first, second = images
    assert first.flat.read_bytes() == second.flat.read_bytes()
    assert first.elf.read_bytes() == second.elf.read_bytes()
    assert str(tmp_path).encode() not in first.elf.read_bytes()
