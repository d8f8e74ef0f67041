# SPDX-License-Identifier: Apache-2.0
"""`python -m gz.metal.compiler PROGRAM DIRECTORY OBJECTS [debug]`: the whole way from modules to an image."""

from __future__ import annotations

import gc
import importlib
import json
import pkgutil
import sys
import time
import types
from dataclasses import asdict
from pathlib import Path

from gz.metal import zig
from gz.metal.elf import CheckError
from gz.metal.errors import CompileError
from gz.metal.program import Program


def load_program(program: str) -> list[types.ModuleType]:
    """Import a program: a package's modules or a single one, with what they import beside it."""
    module = importlib.import_module(program)
    family = program + "."
    if hasattr(module, "__path__"):
        for found in pkgutil.iter_modules(module.__path__, family):
            importlib.import_module(found.name)
    else:
        family = program.rpartition(".")[0] + "."
    return [module for name, module in sorted(sys.modules.items()) if name.startswith(family)]


def compile_program(program: str, directory: Path, objects: Path | None = None, *, debug: bool = True) -> None:
    """Compile and link in this interpreter: core.elf, core.img and report.json in the directory; `objects` keeps
    what need not be compiled again."""
    began = time.perf_counter()
    modules = load_program(program)
    own_stacks: dict[str, int] = {}
    for module in modules:
        own_stacks.update(getattr(module, "OWN_STACKS", {}))
    kept = objects or directory / "objects"
    made = Program([], modules).image(directory, debug=debug, own_stacks=own_stacks, kept=kept)
    report = asdict(made.report) | {"seconds": round(time.perf_counter() - began, 3)}
    (directory / "report.json").write_text(json.dumps(report))


if __name__ == "__main__":
    gc.disable()  # trees that live to the end: looking for garbage in them takes a quarter of the time
    try:
        compile_program(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), debug="debug" in sys.argv[4:])
    except (CompileError, CheckError, zig.ToolError, OSError) as error:
        sys.exit(str(error))
