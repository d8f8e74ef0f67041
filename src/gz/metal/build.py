# SPDX-License-Identifier: Apache-2.0
"""Building the core and the payloads into the state directory, once for each state of the sources."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gz.metal import zig
from gz.metal.report import Image, Report
from gz.state import state_directory

SOURCES = Path(__file__).parents[1]
#: Payloads lie beside src in the source tree.
ROOT = SOURCES.parents[1]

#: Built images kept, the most recently used, and for how many seconds after its use none is forgotten:
#: who asked for it may be about to read it.
KEPT = 16
IN_USE = 3600

#: What the compiler is told for debug information, and how such builds' directories end.
DEBUG = "debug"

#: An image is kept only if no source changed while it was made.
ATTEMPTS = 3


class BuildError(Exception):
    """The sources do not make an image; the text is for the author, first line first."""


@dataclass(frozen=True)
class Built:
    """An image and what is known about it; `fresh` tells whether it was made just now."""

    image: Image
    fresh: bool

    def as_json(self) -> dict[str, Any]:
        """What `gz build --json` prints."""
        report = self.image.report
        return {
            "text_bytes": report.text_bytes,
            "image_bytes": report.image_bytes,
            "worst_stack_bytes": report.worst_stack_bytes,
            "seconds": report.seconds,
        }


def sources() -> list[Path]:
    """Every file that can change an image."""
    packages = [SOURCES / name for name in ("abi", "arm64", "bits", "core", "metal")] + [ROOT / "payloads"]
    files = {path for package in packages for path in package.rglob("*.py")}
    # Payloads find the machine's devices and their registers there.
    return sorted(files | {SOURCES / "vmm" / "maps.py", SOURCES / "vmm" / "virtio" / "mmio.py"})


def fingerprint(program: str) -> str:
    """Names a program in the present state of sources and tools."""
    digest = hashlib.sha256(f"{program}\0{sys.version}\0{zig.version()}\0".encode())
    for path in sources():
        contents = path.read_bytes()
        digest.update(f"{path.relative_to(ROOT)}\0{len(contents)}\0".encode())
        digest.update(contents)
    return digest.hexdigest()[:16]


def build(program: str = "gz.core", *, debug: bool = False) -> Built:
    """Build `gz.core` or a payload, as `payloads.hello`, unless the same sources were built before. With `debug` the
    ELF file has lines and variables; the flat image is the same. BuildError."""
    builds = state_directory() / "builds"
    builds.mkdir(exist_ok=True)
    with (builds / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for _ in range(ATTEMPTS):
            state = fingerprint(program)
            directory = builds / (f"{program}-{state}-{DEBUG}" if debug else f"{program}-{state}")
            if found := _load(directory):
                os.utime(directory)
                return Built(found, fresh=False)
            unfinished = builds / "unfinished"
            _compile_apart(program, unfinished, builds / "objects", [DEBUG] if debug else [])
            if fingerprint(program) == state:
                shutil.rmtree(directory, ignore_errors=True)
                unfinished.rename(directory)
                _forget(builds)
                built = _load(directory)
                assert built is not None
                return Built(built, fresh=True)
        raise BuildError(f"the sources of {program} change faster than they compile")


def symbols(flat: Path, program: str = "gz.core") -> tuple[Path, bool]:
    """The ELF file of an image of `build`'s, and whether it has lines and variables: not if the sources are others by
    now. BuildError."""
    if flat.parent.name == f"{program}-{fingerprint(program)}":
        return build(program, debug=True).image.elf, True
    return flat.with_suffix(".elf"), flat.parent.name.endswith(f"-{DEBUG}")


def _compile_apart(program: str, directory: Path, objects: Path, options: Sequence[str]) -> None:
    """Compile in a fresh interpreter: what this one has imported may be older than the sources on the disk."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    path = os.pathsep.join([str(SOURCES.parent), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "gz.metal.compiler", program, str(directory), str(objects), *options],
        check=False,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        raise BuildError(done.stdout.strip() or f"the compiler ended with status {done.returncode}")


def _load(directory: Path) -> Image | None:
    try:
        report = json.loads((directory / "report.json").read_text())
    except (OSError, ValueError):
        return None
    report["worst_stack"] = tuple((name, frame) for name, frame in report["worst_stack"])
    return Image(directory / "core.elf", directory / "core.img", Report(**report))


def _forget(builds: Path) -> None:
    finished = [path for path in builds.iterdir() if (path / "report.json").exists()]
    finished.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    for path in finished[KEPT:]:
        if path.stat().st_mtime < time.time() - IN_USE:
            shutil.rmtree(path, ignore_errors=True)
