# SPDX-License-Identifier: Apache-2.0
"""Commands for who works on gz itself, run in the source tree."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from gz.cli.report import UserError, say

# Boards share their files' tests; two at a time keep two cores busy and leave time limits their meaning.
PARALLEL = ("-n", "2", "--dist", "loadfile")


def source_tree() -> Path:
    """The checkout this package runs from."""
    root = Path(__file__).resolve().parents[3]
    if not (root / "tests").is_dir():
        raise UserError("this needs the source tree: run ./gz in a checkout")
    return root


def run_tests(arguments: Sequence[str]) -> int:
    """pytest on everything, or on what the arguments say; its output and exit status unchanged."""
    chosen = arguments or PARALLEL
    return subprocess.call([sys.executable, "-m", "pytest", *chosen], cwd=source_tree())


def check_sources() -> int:
    """ruff and pyright; 1 if either complains."""
    worst = 0
    binaries = Path(sys.executable).parent
    # pyright reads what Node it uses from PATH: the environment's own.
    environment = {
        **os.environ,
        "PATH": f"{binaries}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1",
    }
    for command in (["ruff", "check", "."], ["pyright"]):
        say(" ".join(command))
        worst |= subprocess.call([str(binaries / command[0]), *command[1:]], cwd=source_tree(), env=environment) != 0
    return int(worst)
