# SPDX-License-Identifier: Apache-2.0
"""The names of an image's functions inside the image, for its own backtraces.

A program has them if its assembly refers to the symbol `function_names`. There lie, 4-byte aligned: u32 count; for
each function in the order of addresses u32 offset from the image's start and u32 offset of its name from
`function_names`; one entry more for the end; then the names, each up to where the next one begins.
"""

from __future__ import annotations

from collections.abc import Sequence

SYMBOL = "function_names"
END = 0xFFFF_FFFF
"""Offset of the entry behind the last function."""


def assembly(functions: Sequence[tuple[int, str]]) -> str:
    """`functions`: offset and name, in order."""
    texts = [name.encode() for _, name in functions]
    place = 4 + 8 * (len(functions) + 1)
    lines = [f'    .section .rodata.{SYMBOL}, "a"', "    .balign 4", f"    .global {SYMBOL}", f"{SYMBOL}:"]
    lines.append(f"    .long {len(functions)}")
    for (offset, _), text in zip(functions, texts, strict=True):
        lines.append(f"    .long {offset}, {place}")
        place += len(text)
    lines.append(f"    .long {END}, {place}")
    lines += [f"    .byte {', '.join(map(str, text))}" for text in texts if text]
    return "\n".join(lines) + "\n"
