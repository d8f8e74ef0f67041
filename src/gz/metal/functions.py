# SPDX-License-Identifier: Apache-2.0
"""Decorators of metal functions. They leave a note on the function; the function stays what it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_MARKS = "__metal_marks__"
_HOOK = "__metal_hook__"

#: What the program may supply for log, panic and failed checks, with the Python form of each signature.
HOOKS = {
    "text": "(text: Va, length: u64) -> None",
    "number": "(value: u64, base: u32, signed: bool) -> None",
    "panic": "() -> NoReturn",
}


def _mark(function: F, mark: str) -> F:
    setattr(function, _MARKS, marks(function) | {mark})
    return function


def marks(function: Any) -> frozenset[str]:
    """The decorators of a function: export, extern, inline, noinline, cold, releases, const."""
    return getattr(function, _MARKS, frozenset())


def hook_of(function: Any) -> str | None:
    """The name given to @hook, if any."""
    return getattr(function, _HOOK, None)


def export(function: F) -> F:
    """Give the function a C symbol of its own name, for assembly and the linker."""
    return _mark(function, "export")


def extern(function: F) -> F:
    """The function is defined in assembly under its own name; the body is `...`."""
    return _mark(function, "extern")


def inline(function: F) -> F:
    """Put the body in place of every call."""
    return _mark(function, "inline")


def noinline(function: F) -> F:
    """Keep the function a function."""
    return _mark(function, "noinline")


def cold(function: F) -> F:
    """Calls are unlikely: the way to them is laid out of line."""
    return _mark(function, "cold")


def releases(function: F) -> F:
    """The tokens (`Held[T]`) given to the function are gone for the caller."""
    return _mark(function, "releases")


def const(function: F) -> F:
    """The function runs at build time, in CPython; metal code calls it with constants."""
    return _mark(function, "const")


def hook(name: str) -> Callable[[F], F]:
    """The function is where the compiler sends the parts of log and panic texts.

    `"text"(text: Va, length: u64)` writes bytes, `"number"(value: u64, base: u32, signed: bool)` writes a number and
    `"panic"() -> NoReturn` is called when a panic's text is out.
    """
    if name not in HOOKS:
        raise ValueError(f"no hook {name!r}; there are {', '.join(HOOKS)}")

    def declare(function: F) -> F:
        setattr(function, _HOOK, name)
        return function

    return declare
