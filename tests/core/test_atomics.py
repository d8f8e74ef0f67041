# SPDX-License-Identifier: Apache-2.0
"""Where the core uses exclusives and atomics, which a guest's could make fail for ever (H9)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any, cast

from gz.bits.types import LayoutType, PointerType
from gz.metal import tree
from gz.metal.assembly import pieces
from gz.metal.compiler import load_program
from gz.metal.program import Program

EXCLUSIVE = re.compile(r"\b(ld|st)a?l?xr|\bcas|\bswp|\b(ld|st)(add|clr|eor|set|smax|smin|umax|umin)")


def nodes(node: Any) -> Iterator[Any]:
    """A node of the typed tree and all below it."""
    if isinstance(node, list | tuple):
        for part in cast("list[Any]", node):
            yield from nodes(part)
    elif is_dataclass(node) and type(node).__module__.startswith("gz.metal.tree."):
        yield node
        if not isinstance(node, tree.Signature | tree.Variable):
            for field in fields(node):
                yield from nodes(getattr(node, field.name))


def test_atomics_are_on_what_the_core_has_for_itself() -> None:
    """H9: never on memory that a guest or the host reaches, whose layouts are those of gz.abi and gz.arm64; so no loop
    of the core's waits for anybody there."""
    modules = load_program("gz.core")
    owners: set[str] = set()
    for function in Program([], modules).functions.values():
        for atomic in nodes(function):
            if isinstance(atomic, tree.Atomic):
                assert isinstance(atomic.place, tree.Member), f"{function.signature.symbol}: on a bare address"
                reference = atomic.place.base.type
                assert isinstance(reference, PointerType) and isinstance(reference.target, LayoutType)
                owners.add(reference.target.layout.__module__)
    assert {"gz.core.lock", "gz.core.vm", "gz.core.vcpu"} <= owners
    assert all(owner.startswith("gz.core.") for owner in owners)
    lines = [line for module in modules for piece in pieces(module.__name__) for line in piece.text.splitlines()]
    emergency = ["ldaxr w2, [x0]", "stxr w2, w1, [x0]"]  # a word of the image's: the first to panic
    assert [line.removeprefix("1:").strip() for line in filter(EXCLUSIVE.search, lines)] == emergency
