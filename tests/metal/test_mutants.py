# SPDX-License-Identifier: Apache-2.0
"""Some of the mutants at each run, chosen by GZ_FUZZ_SEED; all of them: `python tests/metal/mutants.py`."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from mutants import MUTANTS, onlookers
from mutation import survives

SEED = int(os.environ.get("GZ_FUZZ_SEED", "1"))


def test_each_mutant_still_has_its_place():
    for number, mutant in enumerate(MUTANTS):
        assert mutant.is_in_place(), f"mutant {number}: {mutant.old!r}"
    assert len(set(MUTANTS)) == len(MUTANTS)


@pytest.mark.parametrize("number", sorted(random.Random(SEED).sample(range(len(MUTANTS)), 3)))
def test_a_wrong_compiler_is_noticed(number: int, tmp_path: Path):
    mutant = MUTANTS[number]
    assert not survives(mutant, onlookers(mutant), tmp_path), f"seed {SEED}, mutant {number}: {mutant}"
