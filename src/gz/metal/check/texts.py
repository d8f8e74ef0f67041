# SPDX-License-Identifier: Apache-2.0
"""The texts of log, panic and assert: constant pieces and numbers."""

from __future__ import annotations

import ast
from typing import Any

import gz.metal.check.expressions as expressions
from gz.bits.integers import u32
from gz.bits.types import AddressType, BoolType
from gz.metal import tree
from gz.metal.check.conversion import describe, integer_of, settle
from gz.metal.check.scope import MISSING, Scope
from gz.metal.check.static import static
from gz.metal.errors import Refusal

#: Format: what is written before the number, and its base.
FORMATS = {"": ("", 10), "d": ("", 10), "x": ("", 16), "#x": ("0x", 16), "b": ("", 2), "#b": ("0b", 2)}


def pieces(scope: Scope, node: ast.expr) -> list[tree.Piece]:
    """The parts of a text, neighbouring constants joined."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return [tree.Piece(node.value)]
    if not isinstance(node, ast.JoinedStr):
        text = static(scope, node)
        if isinstance(text, str):
            return [tree.Piece(text)]
        raise Refusal(node, "a text is a constant or an f-string")
    found: list[tree.Piece] = []
    for part in node.values:
        for piece in _part(scope, part):
            if found and found[-1].number is None and piece.number is None:
                found[-1] = tree.Piece(found[-1].text + piece.text)
            else:
                found.append(piece)
    return found


def _part(scope: Scope, node: ast.expr) -> list[tree.Piece]:
    if isinstance(node, ast.Constant):
        return [tree.Piece(str(node.value))]
    assert isinstance(node, ast.FormattedValue)
    if node.conversion != -1:
        raise Refusal(node.value, "!r, !s and !a are not in the language")
    format = _format(scope, node)
    item = static(scope, node.value)
    if isinstance(item, str) and not format:
        return [tree.Piece(item)]
    if format not in FORMATS:
        raise Refusal(node.value, f"there is no format :{format}", f"formats are {', '.join(filter(None, FORMATS))}")
    number = settle(expressions.expression(scope, node.value), node.value)
    if isinstance(number.type, BoolType):
        word: Any = u32
        number = tree.Convert(word, number.at, number)
    elif integer_of(number.type) is None and not isinstance(number.type, AddressType):
        raise Refusal(node.value, f"{describe(number.type)} cannot be written as a number")
    if isinstance(number.type, AddressType) and not format:
        format = "#x"
    prefix, base = FORMATS[format]
    written = [tree.Piece("", number, base)]
    return [tree.Piece(prefix), *written] if prefix else written


def _format(scope: Scope, node: ast.FormattedValue) -> str:
    if node.format_spec is None:
        return ""
    assert isinstance(node.format_spec, ast.JoinedStr)
    text = ""
    for part in node.format_spec.values:
        item = part.value if isinstance(part, ast.Constant) else MISSING
        if not isinstance(item, str):
            raise Refusal(part, "a format is constant")
        text += item
    return text
