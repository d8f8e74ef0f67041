# SPDX-License-Identifier: Apache-2.0
"""Page ownership against an executable model that was written from the rules, not from the code.

The rules: a page of RAM belongs to the host or to the core. The host's page may be lent to one guest, or be
shared with 1 to 15 users in the core, never both, or be donated to one guest, which may show it to the host as if
lent, and hide it again. Who lent or donated it gets it back, from that guest alone, and not while it is the other.
A change of several pages happens to all of them or to none.
"""

from __future__ import annotations

import functools
import os
import random
import runpy
from pathlib import Path
from typing import Literal

import hypothesis.strategies as st
import pytest
from el2 import CORE, HIGH, HIGH_SIZE, LOW, LOW_SIZE, PAGE, Machine
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

import gz.core.pages as pages

GUESTS = (1, 2, 64)
TRANSITIONS = int(os.environ.get("GZ_TRANSITIONS", "120000"))
SEED = int(os.environ.get("GZ_SEED", "7"))
_OF_PROTECTED = (pages.donate, pages.reclaim, pages.show, pages.hide)


@functools.cache
def machine() -> Machine:
    return Machine(pages.lend, pages.take_back, pages.share, pages.unshare, pages.keep, pages.entry, *_OF_PROTECTED)


Page = str | tuple[str, int] | None


class Model:
    """Page address → "core", ("lent", guest), ("private", guest) or ("shared", users); absent: the host's alone."""

    def __init__(self) -> None:
        self.pages: dict[int, Page] = {CORE + i * PAGE: "core" for i in range(16 * 256)}

    @staticmethod
    def is_ram(base: int, count: int) -> bool:
        size = count * PAGE
        return base % PAGE == 0 and any(
            bank <= base and base + size <= bank + bank_size for bank, bank_size in ((LOW, LOW_SIZE), (HIGH, HIGH_SIZE))
        )

    def change(self, name: str, base: int, count: int, guest: int) -> bool:
        if count == 0 or not self.is_ram(base, count):
            return False
        run = [base + i * PAGE for i in range(count)]
        after: list[Page] = []
        for page in run:
            changed = self.next(name, self.pages.get(page), guest)
            if changed is False:
                return False
            after.append(changed)
        for page, value in zip(run, after, strict=True):
            if not value:
                self.pages.pop(page, None)
            else:
                self.pages[page] = value
        return True

    @staticmethod
    def next(name: str, page: Page, guest: int) -> Page | Literal[False]:
        """What the page is afterwards; False: refused."""
        match name, page:
            case "lend", None:
                return ("lent", guest)
            case "take_back", ("lent", owner) if owner == guest:
                return None
            case "share", None:
                return ("shared", 1)
            case "share", ("shared", users) if users < 15:
                return ("shared", users + 1)
            case "unshare", ("shared", 1):
                return None
            case "unshare", ("shared", users):
                return ("shared", users - 1)
            case "keep", None:
                return "core"
            case "donate", None:
                return ("private", guest)
            case "reclaim", ("private", owner) if owner == guest:
                return None
            case "show", ("private", owner) if owner == guest:
                return ("lent", guest)
            case "hide", ("lent", owner) if owner == guest:
                return ("private", guest)
            case _:
                return False

    def encoded(self, page: int) -> int:
        """The entry as documented: state, count << 4, guest << 8."""
        match self.pages.get(page):
            case None:
                return 0
            case ("lent", int(guest)):
                return 1 | guest << 8
            case ("shared", int(users)):
                return 2 | users << 4
            case ("private", int(guest)):
                return 4 | guest << 8
            case _:
                return 3


def call(name: str, base: int, count: int, guest: int) -> bool:
    function = machine().fn(getattr(pages, name))
    return function(base, count, guest) if name in NAMED else function(base, count)


def compare(model: Model) -> None:
    real = machine().entries()
    expected = {page: model.encoded(page) for page in model.pages}
    nonzero = {_page(i): real[i] for i in range(len(real)) if real[i]}
    assert nonzero == expected


def _page(index: int) -> int:
    low = LOW_SIZE // PAGE
    return LOW + index * PAGE if index < low else HIGH + (index - low) * PAGE


NAMED = ("lend", "take_back", "donate", "reclaim", "show", "hide")
NAMES = (*NAMED, "share", "unshare", "keep")
BASES = st.one_of(
    st.integers(0, 12).map(lambda i: LOW + i * PAGE),
    st.integers(0, 12).map(lambda i: CORE - i * PAGE),
    st.integers(0, 6).map(lambda i: LOW + LOW_SIZE - i * PAGE),
    st.integers(0, 6).map(lambda i: HIGH + HIGH_SIZE - i * PAGE),
    st.integers(0, 6).map(lambda i: HIGH + i * PAGE),
    st.sampled_from([0, PAGE, LOW + 1, LOW + 8, LOW - PAGE, HIGH - PAGE, (1 << 64) - PAGE, 1 << 63]),
)
COUNTS = st.one_of(st.integers(0, 13), st.sampled_from([512, 1 << 52, (1 << 64) - 1, (1 << 52) + 1]))


class Ownership(RuleBasedStateMachine):
    """M4."""

    @initialize()
    def boot(self) -> None:
        machine().reset()
        self.model = Model()

    @rule(name=st.sampled_from(NAMES), base=BASES, count=COUNTS, guest=st.sampled_from(GUESTS))
    def change(self, name: str, base: int, count: int, guest: int) -> None:
        assert call(name, base, count, guest) == self.model.change(name, base, count, guest)

    @rule(name=st.sampled_from(("lend", "share", "donate")), page=st.integers(0, 12), guest=st.sampled_from(GUESTS))
    def back_and_forth(self, name: str, page: int, guest: int) -> None:
        back = {"lend": "take_back", "share": "unshare", "donate": "reclaim"}[name]
        for step in (name, back):
            at = LOW + page * PAGE
            assert call(step, at, 3, guest) == self.model.change(step, at, 3, guest)

    @invariant()
    def same(self) -> None:
        if hasattr(self, "model"):
            for page in {*self.model.pages} - {CORE + i * PAGE for i in range(16 * 256)}:
                assert machine().entry(page) == self.model.encoded(page)

    def teardown(self) -> None:
        if hasattr(self, "model"):
            compare(self.model)


TestOwnership = Ownership.TestCase
TestOwnership.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_long_random_history() -> None:
    """More and others: docs/security.md has the record."""
    machine().reset()
    model = Model()
    chance = random.Random(SEED)
    functions = {name: machine().fn(getattr(pages, name)) for name in NAMES}
    names = [name for name in NAMES if name != "keep"]
    for _ in range(TRANSITIONS):
        name = chance.choice(names)
        base = LOW + chance.randrange(64) * PAGE
        count = chance.choice((1, 1, 2, 3, 4, 5, 8, 16))
        guest = chance.choice(GUESTS)
        arguments = (base, count, guest) if name in NAMED else (base, count)
        assert functions[name](*arguments) == model.change(name, base, count, guest)
    compare(model)


@pytest.mark.parametrize("offset", range(5))
@pytest.mark.parametrize("count", [1, 3, 4, 5, 511, 512, 513])
def test_runs_at_every_alignment(offset: int, count: int) -> None:
    machine().reset()
    model = Model()
    base = LOW + (16 + offset) * PAGE
    for name in ("lend", "take_back", "lend", "lend", "take_back"):
        assert call(name, base, count, 5) == model.change(name, base, count, 5)
        compare(model)
    assert call("lend", base + (count - 1) * PAGE, 1, 6)  # one page that differs spoils the whole change
    assert not call("lend", base, count, 5)
    assert machine().entries()[16 + offset] == (0 if count > 1 else 1 | 6 << 8)


def test_entry_of_what_is_not_ram_is_the_cores() -> None:
    machine().reset()
    entry = machine().fn(pages.entry)
    assert entry(LOW) == 0
    assert [entry(pa) for pa in (0, HIGH - PAGE, HIGH + HIGH_SIZE, CORE)] == [pages.State.CORE] * 4


@pytest.mark.parametrize("count", [0, (1 << 64) - 1, 1 << 52, (1 << 52) + 1, (LOW_SIZE + PAGE) // PAGE])
@pytest.mark.parametrize("name", NAMES)
def test_counts_that_wrap_or_leave_the_bank(name: str, count: int) -> None:
    machine().reset()
    before = bytes(machine().entries().cast("B"))
    for base in (LOW, LOW + PAGE, LOW + LOW_SIZE - PAGE, HIGH + PAGE):
        assert not call(name, base, count, 1)
    assert bytes(machine().entries().cast("B")) == before


def test_page_in_the_documentation_is_current() -> None:
    docs = Path(__file__).parents[2] / "docs"
    assert (docs / "memory.md").read_text() == runpy.run_path(str(docs / "memory.py"))["page"]()
