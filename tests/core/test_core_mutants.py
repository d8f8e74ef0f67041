# SPDX-License-Identifier: Apache-2.0
"""Two of the mutants at each run, chosen by GZ_FUZZ_SEED; all of them: `python tests/core/core_mutants.py`."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from core_mutants import MUTANTS, onlookers
from mutation import survives

SEED = int(os.environ.get("GZ_FUZZ_SEED", "1"))


def test_each_mutant_still_has_its_place() -> None:
    for number, mutant in enumerate(MUTANTS):
        assert mutant.is_in_place(), f"mutant {number}: {mutant.old!r}"
    assert len(set(MUTANTS)) == len(MUTANTS)


@pytest.mark.parametrize("number", sorted(random.Random(SEED).sample(range(len(MUTANTS)), 2)))
def test_a_wrong_core_is_noticed(number: int, tmp_path: Path) -> None:
    assert not survives(MUTANTS[number], onlookers(MUTANTS[number]), tmp_path), f"seed {SEED}: {MUTANTS[number]}"
