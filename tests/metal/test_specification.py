# SPDX-License-Identifier: Apache-2.0
"""docs/language.md and the compiler say the same."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from specification import DOCUMENT, Example, read, said

PRELUDE, EXAMPLES = read(DOCUMENT.read_text())


@pytest.mark.parametrize("example", EXAMPLES, ids=[f"line {example.line}" for example in EXAMPLES])
def test_example(example: Example):
    assert said(PRELUDE, example) == (example.messages or "")


def test_each_kind_of_example_is_there():
    refused = [example for example in EXAMPLES if example.messages is not None]
    assert len(refused) >= 25 and len(EXAMPLES) - len(refused) >= 25
