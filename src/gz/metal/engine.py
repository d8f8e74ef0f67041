# SPDX-License-Identifier: Apache-2.0
"""IR to machine code of this process, remembered in the state directory: optimising is what takes the time."""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from pathlib import Path

import llvmlite
import llvmlite.binding as llvm

from gz.state import state_directory

#: Objects kept, the most recently used. Each begins with its SHA-256.
KEPT = 64
DIGEST_SIZE = 32


@functools.cache
def _initialize() -> None:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def compile(module: llvm.ModuleRef, level: int) -> llvm.ExecutionEngine:
    """`level` is clang's -O. The module must not depend on where this process has what: it stands for the code.
    RuntimeError if LLVM does not take it."""
    _initialize()
    module.verify()
    machine = llvm.Target.from_default_triple().create_target_machine(opt=level)
    path = _object_path(str(module), level)
    known = _load(path)
    if known is None and level:
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=level))
        builder.getModulePassManager().run(module, builder)
    engine = llvm.create_mcjit_compiler(module, machine)
    engine.set_object_cache(lambda module, code: _save(path, code), lambda module: known)
    engine.finalize_object()
    return engine


def _object_path(text: str, level: int) -> Path:
    about = f"{llvmlite.__version__} {llvm.get_process_triple()} {level}\n"
    name = hashlib.sha256((about + text).encode()).hexdigest()[:32]
    return state_directory() / "objects" / name


def _load(path: Path) -> bytes | None:
    """The object, if it is whole: LLVM does not survive a damaged one."""
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    digest, code = content[:DIGEST_SIZE], content[DIGEST_SIZE:]
    return code if hashlib.sha256(code).digest() == digest else None


def _save(path: Path, code: bytes) -> None:
    """Best effort: without room for it the next process compiles again."""
    try:
        path.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            file.write(hashlib.sha256(code).digest() + code)
        os.replace(file.name, path)
        found = sorted(path.parent.iterdir(), key=lambda one: one.stat().st_mtime, reverse=True)
        for old in found[KEPT:]:
            old.unlink(missing_ok=True)
    except OSError:
        pass
