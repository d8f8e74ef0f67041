# SPDX-License-Identifier: Apache-2.0
"""Case files: what the compiler says, word for word, and the instructions it emits."""

from __future__ import annotations

import sys
from pathlib import Path

import llvmlite.binding as llvm
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import case_files

from gz.metal import CompileError, Program
from gz.metal.target import CORE, LINUX_X86_64

ERRORS = case_files.read("errors.txt")
EMITTED = case_files.read("ir.txt")


def names(cases: list[case_files.Case]) -> list[str]:
    return [case.name for case in cases]


@pytest.mark.parametrize("case", ERRORS, ids=names(ERRORS))
def test_errors(case: case_files.Case) -> None:
    module = case_files.load(case)
    with pytest.raises(CompileError) as caught:
        Program(roots=case_files.functions(module)).ir(CORE)
    assert str(caught.value) == case.sections["errors"].rstrip("\n")


@pytest.mark.parametrize("case", EMITTED, ids=names(EMITTED))
def test_ir(case: case_files.Case) -> None:
    """Each line of [ir] stands in the text, in this order; lines of [without] do not stand there."""
    module = case_files.load(case)
    text = Program(roots=case_files.functions(module)).ir(CORE)
    llvm.parse_assembly(text).verify()
    place = 0
    for line in filter(None, case.sections["ir"].splitlines()):
        found = text.find(line.strip(), place)
        assert found >= 0, f"{line}\n\nis missing in\n\n{text[place:]}"
        place = found
    for line in filter(None, case.sections.get("without", "").splitlines()):
        assert line not in text


def test_names_of_cases_are_unique() -> None:
    assert len(set(names(ERRORS))) == len(ERRORS)
    assert len(set(names(EMITTED))) == len(EMITTED)


def test_user_space_has_no_system_registers() -> None:
    case = case_files.Case("user_space", "def f() -> u64:\n    return sysreg.HCR_EL2\n")
    module = case_files.load(case)
    with pytest.raises(CompileError) as caught:
        Program(roots=case_files.functions(module)).ir(LINUX_X86_64)
    assert "2:12: error: HCR_EL2 does not exist in x86-64 user space" in str(caught.value)
