# SPDX-License-Identifier: Apache-2.0
"""metal: the decorators and intrinsics of the language (docs/language.md), and `Program`, its compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gz.metal.assembly import assembly
from gz.metal.errors import CompileError
from gz.metal.functions import cold, const, export, extern, hook, inline, noinline, releases
from gz.metal.intrinsics import (
    address,
    byte_swap,
    compare_exchange,
    copy,
    count_leading_zeros,
    count_trailing_zeros,
    exchange,
    fetch_add,
    fetch_and,
    fetch_or,
    held,
    load_acquire,
    log,
    mmio,
    panic,
    peek8,
    peek16,
    peek32,
    peek64,
    poke8,
    poke16,
    poke32,
    poke64,
    popcount,
    read_once,
    store_release,
    trap,
    unroll,
    view,
    write_once,
)

if TYPE_CHECKING:
    from gz.metal.jit import Panic
    from gz.metal.program import Program

__all__ = [
    "CompileError",
    "Panic",
    "Program",
    "address",
    "assembly",
    "byte_swap",
    "cold",
    "compare_exchange",
    "const",
    "copy",
    "count_leading_zeros",
    "count_trailing_zeros",
    "exchange",
    "export",
    "extern",
    "fetch_add",
    "fetch_and",
    "fetch_or",
    "held",
    "hook",
    "inline",
    "load_acquire",
    "log",
    "mmio",
    "noinline",
    "panic",
    "peek8",
    "peek16",
    "peek32",
    "peek64",
    "poke8",
    "poke16",
    "poke32",
    "poke64",
    "popcount",
    "read_once",
    "releases",
    "store_release",
    "trap",
    "unroll",
    "view",
    "write_once",
]


def __getattr__(name: str) -> Any:
    """The compiler itself is imported when it is first asked for."""
    if name == "Program":
        from gz.metal.program import Program

        return Program
    if name == "Panic":
        from gz.metal.jit import Panic

        return Panic
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
