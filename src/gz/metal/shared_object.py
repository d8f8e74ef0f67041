# SPDX-License-Identifier: Apache-2.0
"""Metal for user space: a shared object with the C calling convention and no libc, for ctypes.CDLL.

ctypes lets other Python threads run during a CDLL call; that is what a thread inside a vCPU needs.
"""

from __future__ import annotations

from pathlib import Path

from gz.metal import zig
from gz.metal.elf import CheckError
from gz.metal.object_file import SHN_UNDEF, ObjectFile
from gz.metal.target import Target


def build(ir: str, target: Target, directory: Path, name: str) -> Path:
    """Compile IR of a user-space target to `directory`/lib`name`.so; its exported functions are those the IR
    leaves visible. zig.ToolError, or CheckError if it would need another library."""
    directory.mkdir(parents=True, exist_ok=True)
    output = directory / f"lib{name}.so"
    output.unlink(missing_ok=True)
    (directory / f"{name}.ll").write_text(ir)
    # clang calls libgcc for atomics as soon as the machine has one for this target.
    atomics = ["-mno-outline-atomics"] if target.arm64 else []
    zig.compile_ir(f"{name}.ll", target.triple, f"{name}.o", directory, ["-fPIC", *atomics])
    options = ["-shared", "--gc-sections", "-z", "now", "-z", "noexecstack", f"-soname=lib{name}.so"]
    zig.link([f"{name}.o"], f"{name}.unchecked", directory, options)
    missing = _undefined(directory / f"{name}.unchecked")
    if missing:
        raise CheckError([f"{output.name} needs {symbol}, which nothing defines" for symbol in missing])
    (directory / f"{name}.unchecked").replace(output)
    return output


def _undefined(path: Path) -> list[str]:
    symbols = ObjectFile(path).dynamic_symbols
    return [symbol.name for symbol in symbols if symbol.section == SHN_UNDEF and symbol.name]
