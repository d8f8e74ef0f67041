# SPDX-License-Identifier: Apache-2.0
"""Which board that is up `gz run` takes."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gz.board.qemu import Machine
from gz.cli import board

UP = Machine(Path("/linux-1"), Path("/host-1"), core=Path("/core-1"), cpus=2, memory=2048)


@pytest.fixture
def up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> board.Record:
    """A record of a board that is this process."""
    monkeypatch.setattr(board, "PROGRAM", Path(f"/proc/{os.getpid()}/cmdline").read_text().split("\0")[0])
    monkeypatch.setattr(board, "record_file", lambda: tmp_path / "board.json")
    record = board.Record(os.getpid(), str(tmp_path / "none"), UP.options(), True, board.boots(UP))
    (tmp_path / "board.json").write_text(json.dumps(asdict(record)))
    return record


def test_the_same_board_or_one_with_more_memory_fits(up: board.Record) -> None:
    assert board.fitting(UP) == up
    assert board.fitting(replace(UP, memory=512)) == up


@pytest.mark.parametrize(
    "wanted",
    [
        replace(UP, memory=4096),
        replace(UP, cpus=1),
        replace(UP, cpu="max"),
        replace(UP, core=None),
        replace(UP, core=Path("/core-2")),
        replace(UP, initrd=Path("/host-2")),
        replace(UP, kernel=Path("/linux-2")),
        replace(UP, icount=True),
    ],
)
def test_another_one_does_not(up: board.Record, wanted: Machine) -> None:
    assert board.fitting(wanted) is None


def test_records_of_earlier_versions_fit_nobody(up: board.Record) -> None:
    old = asdict(up)
    del old["boots"]
    board.record_file().write_text(json.dumps(old))
    assert board.current() is not None and board.fitting(UP) is None


def test_without_a_board_none_fits(up: board.Record) -> None:
    board.record_file().unlink()
    assert board.fitting(UP) is None
