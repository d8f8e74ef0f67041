# SPDX-License-Identifier: Apache-2.0
"""Reading packages: what comes out of hand-made archives, and that damaged ones are refused in a line."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from gz.board import deb
from gz.board.errors import BoardError


def ar(*members: tuple[str, bytes]) -> bytes:
    out = b"!<arch>\n"
    for name, data in members:
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}".encode() + b"`\n" + data
        out += b"\n" * (len(data) % 2)
    return out


MODES: dict[str, Literal["w", "w:gz", "w:xz"]] = {"": "w", "gz": "w:gz", "xz": "w:xz"}


def data_tar(compression: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=MODES[compression]) as tar:
        for name, kind, content, target in (
            ("./usr", tarfile.DIRTYPE, b"", ""),
            ("./usr/odd", tarfile.REGTYPE, b"abc", ""),
            ("./usr/link", tarfile.SYMTYPE, b"", "odd"),
            ("./usr/hard", tarfile.LNKTYPE, b"", "./usr/odd"),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.size, member.linkname, member.mode = kind, len(content), target, 0o755
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("compression", ["xz", "gz", "zst", ""])
def test_contents(tmp_path: Path, compression: str) -> None:
    if compression == "zst":
        if not shutil.which("zstd"):
            pytest.skip("zstd is not installed")
        data = subprocess.run(["zstd", "-c"], input=data_tar(""), capture_output=True, check=True).stdout
    else:
        data = data_tar(compression)
    name = "data.tar" + (f".{compression}" if compression else "")
    path = tmp_path / "x.deb"
    path.write_bytes(ar(("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (name, data)))
    entries = {entry.name: entry for entry in deb.entries(path)}
    assert entries["usr"].content is None and entries["usr"].target is None
    assert entries["usr/odd"].content == b"abc" and entries["usr/odd"].mode == 0o755
    assert entries["usr/link"].target == "odd"
    assert entries["usr/hard"].content == b"abc"


def damages(*them: Callable[[bytes], bytes]) -> tuple[Callable[[bytes], bytes], ...]:
    return them


@pytest.mark.parametrize(
    "damage",
    damages(
        lambda good: b"",
        lambda good: b"PK" + good,
        lambda good: good[:200],
        lambda good: good[:70],
        lambda good: good[:-60] + bytes(60),
        lambda good: good.replace(b"data.tar", b"date.tar"),
        lambda good: good.replace(b"`\n", b"??"),
    ),
)
def test_damage_is_refused(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "x.deb"
    path.write_bytes(damage(ar(("debian-binary", b"2.0\n"), ("data.tar.xz", data_tar("xz")))))
    with pytest.raises(BoardError):
        list(deb.entries(path))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BoardError, match="No such file"):
        list(deb.entries(tmp_path / "none.deb"))
