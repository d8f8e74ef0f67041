# SPDX-License-Identifier: Apache-2.0
"""Mutated programs are compiled or explained: never an exception of the compiler's own, never invalid IR."""

from __future__ import annotations

import ast
import io
import itertools
import linecache
import os
import random
import sys
import textwrap
import tokenize
import types
from pathlib import Path

import llvmlite.binding as llvm
import pytest

from gz.metal import Program
from gz.metal.errors import CompileError
from gz.metal.target import CORE, JIT_X86_64

CORPUS = Path(__file__).with_name("corpus.py")
ROUNDS = int(os.environ.get("GZ_FUZZ", "25"))

NUMBERS = ("0", "1", "2", "63", "64", "0xFF", "256", "1 << 32", "(1 << 64) - 1", "1 << 64", "-1", "-(1 << 63)")
OPERATORS = ("+", "-", "*", "//", "%", "&", "|", "^", "<<", ">>", "/", "**", "@")
COMPARISONS = ("==", "!=", "<", "<=", ">", ">=", "is", "in")
WORDS = ("and", "or", "not", "if", "else", "while", "for", "return", "break", "continue", "pass", "None", "True")
#: What Python has and the language has not, or not there.
FRAGMENTS = (
    "lambda: 0", "[1, 2]", "{}", "f'{1}'", "'text'", "1.5", "yield", "await x", "*x", "x := 1", "del x", "raise",
    "print(1)", "range(3)", "len(1)", "u64", "u8(1, 2)", "i8(-1)", "Pa(1)", "Node", "TREES", "TREES[0]", "FIRST",
    "Colour.RED", "Colour(3)", "Control(MODE=9)", "SAVED", "NAMES[0]", "sysreg.VTTBR_EL2", "sysreg.NOPE", "self",
    "...", "()", "(1, 2)", "a[1:2]", "b''", "1j", "__name__", "abs(-1)", "min(1)", "min()", "bool(1)", "int(1)",
)  # fmt: skip


def spans() -> list[tuple[str, int, int]]:
    """The functions of the corpus: name, first and last line, from 0, decorators not included."""
    tree = ast.parse(CORPUS.read_text())
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return [(node.name, node.lineno - 1, node.end_lineno or node.lineno) for node in nodes]


def mutate(source: str, rng: random.Random) -> str:
    """One function's text changed in a few tokens, and still Python if twenty attempts are enough."""
    for _ in range(20):
        changed = change_some(source, rng)
        try:
            compile(textwrap.dedent(changed), "mutant", "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            continue
        if changed != source:
            return changed
    return source


def change_some(source: str, rng: random.Random) -> str:
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        try:
            tokens = list(tokenize.generate_tokens(io.StringIO(source).readline))
        except (tokenize.TokenError, IndentationError):
            return source
        plain = [t for t in tokens if t.type in (tokenize.NAME, tokenize.OP, tokenize.NUMBER, tokenize.STRING)]
        if len(plain) < 4:
            return source
        source = change(source, plain, rng)
    return source


def change(source: str, tokens: list[tokenize.TokenInfo], rng: random.Random) -> str:
    token = rng.choice(tokens[2:])
    kind = rng.randrange(7)
    if kind == 0:
        text = ""
    elif kind == 1:
        text = f"{token.string} {token.string}"
    elif kind == 2:
        text = rng.choice(tokens).string
    elif kind == 3:
        text = rng.choice(FRAGMENTS)
    elif kind == 4:
        text = f"({token.string} {rng.choice((*OPERATORS, *COMPARISONS))} {rng.choice((*NUMBERS, *FRAGMENTS))})"
    elif token.type == tokenize.NUMBER:
        text = rng.choice(NUMBERS)
    elif token.type == tokenize.OP:
        text = rng.choice((*OPERATORS, *COMPARISONS))
    else:
        text = rng.choice((*WORDS, *[t.string for t in tokens if t.type == tokenize.NAME]))
    lines = source.splitlines(keepends=True)
    row, start, end = token.start[0] - 1, token.start[1], token.end[1]
    if token.start[0] != token.end[0]:
        return source
    lines[row] = lines[row][:start] + text + lines[row][end:]
    return "".join(lines)


#: Each mutant is a module of its own: the reader remembers files.
COUNT = itertools.count()


def load(text: str, number: int) -> types.ModuleType | None:
    """The text as a module, None if CPython itself refuses it."""
    name = f"mutant_{number}"
    file = f"/mutants/{name}.py"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = types.ModuleType(name)
    module.__file__ = file
    sys.modules[name] = module
    try:
        exec(compile(text, file, "exec"), vars(module))
    except Exception:
        return None
    return module


def attempt(text: str, number: int) -> str:
    """ "refused by Python", "explained" or "compiled"; any other end is the compiler's fault."""
    number = 2 * next(COUNT) + number % 2
    module = load(text, number)
    try:
        if module is None:
            return "refused by Python"
        target = (CORE, JIT_X86_64)[number % 2]
        try:
            ir = Program(roots=module.ROOTS).ir(target)
        except CompileError as error:
            explained(error, text)
            return "explained"
        llvm.parse_assembly(ir).verify()
        return "compiled"
    finally:
        sys.modules.pop(f"mutant_{number}", None)
        linecache.cache.pop(f"/mutants/mutant_{number}.py", None)


def explained(error: CompileError, text: str) -> None:
    lines = text.splitlines()
    assert error.diagnostics
    for diagnostic in error.diagnostics:
        assert diagnostic.message and diagnostic.message[0] != " ", diagnostic
        assert "object at 0x" not in diagnostic.message, diagnostic.message
        if diagnostic.file.startswith("/mutants/"):
            assert 1 <= diagnostic.line <= len(lines), diagnostic
            assert 1 <= diagnostic.column <= len(lines[diagnostic.line - 1]) + 1, diagnostic
            assert diagnostic.width >= 1, diagnostic


@pytest.fixture(scope="module", autouse=True)
def llvm_ready():
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()


def test_the_corpus_compiles() -> None:
    assert attempt(CORPUS.read_text(), 0) == "compiled"
    assert attempt(CORPUS.read_text(), 1) == "compiled"


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@pytest.mark.parametrize(("name", "first", "last"), spans(), ids=[name for name, *_ in spans()])
def test_mutants(name: str, first: int, last: int) -> None:
    lines = CORPUS.read_text().splitlines(keepends=True)
    body = "".join(lines[first:last])
    counts: dict[str, int] = dict.fromkeys(("refused by Python", "explained", "compiled"), 0)
    for number in range(ROUNDS):
        rng = random.Random(f"{name} {number}")
        text = "".join(lines[:first]) + mutate(body, rng) + "".join(lines[last:])
        try:
            counts[attempt(text, number)] += 1
        except Exception as error:
            shown = "".join(text.splitlines(keepends=True)[first : last + 2])
            raise AssertionError(f"mutant {name} {number}: {type(error).__name__}: {error}\n{shown}") from error
    assert counts["refused by Python"] < ROUNDS
