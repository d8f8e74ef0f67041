# SPDX-License-Identifier: Apache-2.0
"""Random whole functions: compiled into this process against a model in plain Python.

GZ_FUZZ_PROGRAMS sets how many functions, GZ_FUZZ_SEED the seed of the first batch; a failure names its seed.
"""

from __future__ import annotations

import itertools
import linecache
import os
import random
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import model
from generator import ARRAYS, HEAD, TYPES, Function, Generator, least, most

from gz.bits.annotation import LAYOUTS
from gz.bits.layout import Layout
from gz.bits.view import address_of
from gz.metal import Panic, Program

PROGRAMS = int(os.environ.get("GZ_FUZZ_PROGRAMS", "120"))
SEED = int(os.environ.get("GZ_FUZZ_SEED", "1"))
BATCH = 40
CALLS = 12
SCALARS = [f"s_{kind}" for kind in TYPES]


COUNT = itertools.count()


class ModelState:
    """The struct as Python numbers."""

    other: ModelState | None = None


def load(number: int, text: str) -> types.ModuleType:
    """Metal source as a module that the reader can find again."""
    name = f"generated_{number}_{next(COUNT)}"  # the reader remembers files
    file = f"/generated/{name}.py"
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    module = types.ModuleType(name)
    module.__file__ = file
    sys.modules[name] = module
    exec(compile(text, file, "exec"), vars(module))
    return module


def random_value(rng: random.Random, kind: str) -> int:
    edges = [0, 1, 2, most(kind), least(kind), most(kind) // 2]
    return rng.choice(edges) if rng.random() < 0.4 else rng.randrange(least(kind), most(kind) + 1)


def fill(rng: random.Random, state: Any) -> ModelState:
    """Random contents for both sides; `other` is None."""
    other = ModelState()
    other.other = None
    for kind in TYPES:
        value = random_value(rng, kind)
        setattr(state, f"s_{kind}", value)
        setattr(other, f"s_{kind}", value)
    for name, (kind, count) in ARRAYS.items():
        values = [random_value(rng, kind) for _ in range(count)]
        setattr(other, name, values)
        for index, value in enumerate(values):
            getattr(state, name)[index] = value
    for name, value in (
        ("flag", rng.random() < 0.5),
        ("flags", rng.getrandbits(32)),
        ("colour", rng.choice((0, 1, 5))),
    ):
        setattr(state, name, value)
        setattr(other, name, value)
    return other


def contents(state: Any) -> dict[str, Any]:
    found = {name: int(getattr(state, name)) for name in [*SCALARS, "flag", "flags", "colour"]}
    return found | {name: list(getattr(state, name)) for name in ARRAYS}


def connect(rng: random.Random, states: Sequence[Any], models: Sequence[ModelState]) -> None:
    """Let each state refer to none or one of them, the same on both sides."""
    for state, model_state in zip(states, models, strict=True):
        target = rng.choice((None, 0, 1, 1))
        state.other = None if target is None else states[target]
        model_state.other = None if target is None else models[target]


def referred(states: Sequence[Any]) -> list[int | None]:
    """Which state each refers to."""
    places = [address_of(state) if isinstance(state, Layout) else id(state) for state in states]
    found: list[int | None] = []
    for state in states:
        other: Any = state.other
        place = other if isinstance(other, int) else None if other is None else id(other)
        found.append(places.index(place) if place else None)
    return found


def outcome(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except Panic as panic:
        return f"panic: {panic.message}"
    except model.Failed as failed:
        return f"panic: {failed}"


def check(seed: int) -> int:
    """One batch of functions; gives how many calls ended in a failed check."""
    rng = random.Random(seed)
    generator = Generator(rng, seed)
    functions: list[Function] = [generator.function() for _ in range(BATCH)]
    text = HEAD.replace("{n}", str(seed)) + "\n\n" + "\n".join(generator.metal)
    module = load(seed, text)
    names = dict(model.NAMES)
    exec("\n".join(generator.model), names)
    try:
        jit = Program(roots=[getattr(module, function.name) for function in functions]).jit()
        layout = getattr(module, f"State{seed}")
        failed = 0
        for function in functions:
            compiled = jit.fn(getattr(module, function.name))
            for call in range(CALLS):
                states = [layout.view(bytearray(layout.size)) for _ in range(2)]
                models = [fill(rng, state) for state in states]
                connect(rng, states, models)
                arguments = [random_value(rng, kind) for kind in function.parameters]
                shown = f"seed {seed}, {function.name}{tuple(arguments)}, call {call}\n{text}"
                given = outcome(compiled, states[0], *arguments)
                wanted = outcome(names[function.name], models[0], *arguments)
                assert given == wanted, shown
                assert list(map(contents, states)) == list(map(contents, models)), shown
                assert referred(states) == referred(models), shown
                failed += isinstance(wanted, str)
        return failed
    finally:
        del sys.modules[module.__name__]
        for name in (f"State{seed}",):
            LAYOUTS.pop(name, None)


@pytest.mark.parametrize("seed", range(SEED, SEED + max(1, PROGRAMS // BATCH)))
def test_compiled_functions_do_what_the_model_does(seed: int) -> None:
    failed = check(seed)
    assert failed < BATCH * CALLS * 3 // 4, "most calls should come to their end"
