# SPDX-License-Identifier: Apache-2.0
"""The cache of images built from packages and sources: a file per content, named by what went in."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from gz.board.errors import BoardError
from gz.state import state_directory

KEPT = 6
"""How many images of one kind stay."""


def fingerprint(parts: Iterable[str | bytes]) -> str:
    """A name for this content."""
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:24]


def cached(kind: str, key: str, build: Callable[[], bytes]) -> Path:
    """The image `kind` for `key`, built now if it is not there. Its hash stands beside it and is checked."""
    directory = state_directory() / "images"
    path = directory / f"{kind}-{key}"
    check = path.with_name(path.name + ".sha256")
    if not intact(path, check):
        content = build()
        try:
            directory.mkdir(exist_ok=True)
            write_whole(check, hashlib.sha256(content).hexdigest().encode())
            write_whole(path, content)
        except OSError as error:
            raise refused(path, error) from None
        prune(directory, kind)
    os.utime(path)
    return path


def intact(path: Path, check: Path) -> bool:
    """Whether the image is there and is what was built."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == check.read_text()
    except OSError:
        return False


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears complete or not at all."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=".")
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


def refused(path: Path, error: OSError) -> BoardError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return BoardError(f"no space left for {path}; free some, or choose another place by GZ_STATE")
    return BoardError(f"cannot write {path}: {error.strerror}")


def prune(directory: Path, kind: str) -> None:
    """Remove the images of a kind that were not used for longest."""
    images = [p for p in directory.glob(f"{kind}-*") if p.suffix != ".sha256"]
    for path in sorted(images, key=lambda path: path.stat().st_mtime)[:-KEPT]:
        path.unlink(missing_ok=True)
        path.with_name(path.name + ".sha256").unlink(missing_ok=True)
