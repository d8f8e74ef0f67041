# SPDX-License-Identifier: Apache-2.0
"""Objects of a program's parts: compiled beside each other, those compiled before taken from where they are kept."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from gz.metal import zig
from gz.metal.partition import split

#: Parts of a program, as many as keep both the longest and the sum short.
PARTS = 8

#: Objects kept, the most recently used: some builds of a core and its payloads.
KEPT = 256


def compile_parts(ir: str, target: str, name: str, directory: Path, options: Sequence[str], kept: Path) -> list[str]:
    """The objects in `directory`, by name. `kept` is a directory for them between builds. zig.ToolError."""
    kept.mkdir(parents=True, exist_ok=True)
    parts = split(ir, PARTS)

    def compile_part(number: int) -> str:
        source, output = f"{name}-{number}.ll", f"{name}-{number}.o"
        text = parts[number].encode()
        state = hashlib.sha256("\0".join([zig.version(), *zig.OPTIONS, target, *options, ""]).encode() + text)
        known = kept / f"{state.hexdigest()[:32]}.o"
        try:
            shutil.copyfile(known, directory / output)
            os.utime(known)
        except FileNotFoundError:
            (directory / source).write_bytes(text)
            zig.compile_ir(source, target, output, directory, options)
            unfinished = known.with_suffix(f".{os.getpid()}")
            shutil.copyfile(directory / output, unfinished)
            unfinished.rename(known)
        return output

    largest_first = sorted(range(len(parts)), key=lambda number: -len(parts[number]))
    with ThreadPoolExecutor(os.cpu_count()) as workers:
        objects = sorted(workers.map(compile_part, largest_first))
    for old in sorted(kept.glob("*.o"), key=lambda path: path.stat().st_mtime, reverse=True)[KEPT:]:
        old.unlink(missing_ok=True)
    return objects
