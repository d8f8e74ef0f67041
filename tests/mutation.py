# SPDX-License-Identifier: Apache-2.0
"""Mistakes put into a copy of the sources on purpose: do the tests notice?"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "gz"


@dataclass(frozen=True)
class Mutant:
    """In `file`, below src/gz, `old` becomes `new`."""

    file: str
    old: str
    new: str

    def is_in_place(self) -> bool:
        return (SOURCE / self.file).read_text().count(self.old) == 1


def survives(mutant: Mutant, tests: Sequence[str], directory: Path) -> bool:
    """Do the tests, paths below the root, pass although the sources are wrong?"""
    copy = directory / "gz"
    shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
    assert mutant.is_in_place(), f"{mutant.file} has not just one {mutant.old!r}"
    path = copy / mutant.file
    path.write_text(path.read_text().replace(mutant.old, mutant.new))
    environment = os.environ | {
        "PYTHONPATH": f"{directory}:{ROOT / 'tests'}:{ROOT / 'tests/core'}",
        "GZ_STATE": str(directory / "state"),
        "GZ_FUZZ_PROGRAMS": "120",
        "GZ_CALLS": "24000",
        "GZ_TRANSITIONS": "24000",
        "GZ_STORM_CALLS": "100000",
    }
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "--noconftest", *tests]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)
    if done.returncode not in (0, 1) and done.returncode > 0:  # a crash of the process counts as noticed
        raise RuntimeError(f"the tests of {mutant} could not run\n{done.stdout}{done.stderr}")
    if mutant.file.startswith("core/") and "gz.metal.errors.CompileError" in done.stdout:
        raise RuntimeError(f"{mutant} is no program\n{done.stdout}")
    return done.returncode == 0


def score(mutants: Sequence[Mutant], onlookers: Callable[[Mutant], Sequence[str]]) -> None:
    """Try all mutants, or those whose numbers are the program's arguments, and print who was noticed."""
    chosen = [int(number) for number in sys.argv[1:]] or range(len(mutants))
    survivors: list[int] = []
    for number in chosen:
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as directory:
            if survives(mutants[number], onlookers(mutants[number]), Path(directory)):
                survivors.append(number)
        verdict = "SURVIVES" if number in survivors else "caught"
        print(f"{number:3} {verdict} {time.monotonic() - start:5.1f} s  {mutants[number].old[:60]!r}", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} caught; survivors: {survivors}")
