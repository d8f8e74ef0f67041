# SPDX-License-Identifier: Apache-2.0
"""clang, assembler and lld out of the ziglang wheel: no system compiler, the same bytes on every machine."""

from __future__ import annotations

import functools
import importlib.util
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

# Without trap-unreachable a function that ends in `unreachable` runs on into what is linked behind it.
OPTIONS = (
    "-O2",
    "-ffreestanding",
    "-ffunction-sections",
    "-fdata-sections",
    "-fstack-size-section",
    "-mllvm",
    "-trap-unreachable",
    "-Wno-override-module",
)


class ToolError(Exception):
    """A tool refused its input or could not be started; the text is the tool's own, first line first."""


@functools.cache
def zig() -> Path:
    """The zig executable. ToolError if the wheel is not installed."""
    found = importlib.util.find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        raise ToolError("the Python package ziglang is missing: ./gz sets it up")
    return Path(found.submodule_search_locations[0]) / "zig"


def version() -> str:
    """The version of the wheel, as the directory of its metadata says it."""
    found = next(zig().parents[1].glob("ziglang-*.dist-info"), None)
    if found is None:
        raise ToolError("the Python package ziglang is damaged: its metadata are missing")
    return found.name.removeprefix("ziglang-").removesuffix(".dist-info")


def run(tool: str, arguments: Sequence[str], directory: Path) -> None:
    """Run `clang` or `ld.lld` in a directory. Callers name files relative to it: then no output can depend
    on where it lies. The environment is empty but for private caches, so nothing of the user's leaks in."""
    environment = {
        "PATH": os.defpath,
        "LC_ALL": "C",
        "HOME": str(directory),
        "TMPDIR": str(directory),
        "SOURCE_DATE_EPOCH": "0",
        "ZIG_GLOBAL_CACHE_DIR": str(directory / "zig-cache"),
        "ZIG_LOCAL_CACHE_DIR": str(directory / "zig-cache"),
    }
    try:
        done = subprocess.run(
            [zig(), tool, *arguments],
            check=False,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise ToolError(f"cannot start {zig()}: {error.strerror}") from None
    if done.returncode != 0:
        raise ToolError(done.stdout.strip() or f"{tool} ended with status {done.returncode}")


def compile_ir(source: str, target: str, output: str, directory: Path, options: Sequence[str] = ()) -> None:
    """Text IR to an object. CPU features are the functions' own attributes."""
    run("clang", [f"--target={target}", *OPTIONS, *options, "-x", "ir", "-c", source, "-o", output], directory)


def assemble(source: str, target: str, output: str, directory: Path) -> None:
    """Assembly text, with `# line "file"` markers for diagnostics and debug information, to an object."""
    options = [f"--target={target}", "-march=armv8-a", "-g", "-fdebug-compilation-dir=."]
    run("clang", [*options, "-x", "assembler", "-c", source, "-o", output], directory)


def link(inputs: Sequence[str], output: str, directory: Path, options: Sequence[str]) -> None:
    """Objects to an executable or library, by lld; warnings are errors. ToolError."""
    run("ld.lld", ["--build-id=none", "--fatal-warnings", *options, *inputs, "-o", output], directory)
