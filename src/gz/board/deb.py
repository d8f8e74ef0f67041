# SPDX-License-Identifier: Apache-2.0
"""Reading .deb files (deb(5)) without dpkg and without root."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gz.board.errors import BoardError

MAGIC = b"!<arch>\n"
HEADER = 60


@dataclass(frozen=True)
class Entry:
    """A file of a package: `name` without a leading slash, `mode` with the type bits' permissions only.

    `content` is None for directories; `target` is set for symbolic links."""

    name: str
    mode: int
    content: bytes | None = None
    target: str | None = None


def members(archive: bytes) -> Iterator[tuple[str, bytes]]:
    """Names and contents of a common ar archive."""
    if archive[:8] != MAGIC:
        raise BoardError("not a Debian package: no ar header")
    at = 8
    while at + HEADER <= len(archive):
        header = archive[at : at + HEADER]
        if header[58:60] != b"`\n" or not header[48:58].strip().isdigit():
            raise BoardError("not a Debian package: broken ar member")
        size = int(header[48:58])
        yield (
            header[:16].decode("ascii", "replace").strip().rstrip("/"),
            archive[at + HEADER : at + HEADER + size],
        )
        at += HEADER + size + size % 2


def unzstd(data: bytes) -> bytes:
    """CPython before 3.14 has no zstd of its own."""
    try:
        return subprocess.run(["zstd", "-dc"], input=data, capture_output=True, check=True).stdout
    except FileNotFoundError:
        raise BoardError("this package is packed with zstd; install zstd") from None
    except subprocess.CalledProcessError:
        raise BoardError("the package's zstd stream is damaged") from None


def entries(path: Path) -> Iterator[Entry]:
    """Files, directories and links of the package in archive order; hard links become copies."""
    try:
        content = dict(members(path.read_bytes()))
    except OSError as error:
        raise BoardError(f"cannot read {path}: {error.strerror}") from None
    name = next((n for n in content if n.startswith("data.tar")), None)
    if name is None:
        raise BoardError(f"{path}: not a Debian package: no data.tar")
    data = unzstd(content[name]) if name.endswith(".zst") else content[name]
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for member in tar:
                where = member.name.removeprefix("./").strip("/")
                if not where or where == ".":
                    continue
                if member.isdir():
                    yield Entry(where, member.mode)
                elif member.issym():
                    yield Entry(where, 0o777, target=member.linkname)
                elif member.isfile() or member.islnk():
                    file = tar.extractfile(member)
                    yield Entry(where, member.mode, file.read() if file else b"")
    except (tarfile.TarError, EOFError, OSError) as error:
        raise BoardError(f"{path}: damaged package: {error}") from None
