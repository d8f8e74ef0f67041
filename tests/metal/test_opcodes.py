# SPDX-License-Identifier: Apache-2.0
"""Instruction words, read as capstone reads them."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import capstone  # pyright: ignore[reportMissingTypeStubs]

from gz.metal import opcodes
from gz.metal.opcodes import Jump

VECTOR = re.compile(r"\b(?:[qvzp]\d+|[dshb](?:3[01]|[12]?\d)|za\d*)\b")
SIGNED = 1 << 63

#: A pattern, and how capstone's operands then tell the bytes by which the stack pointer goes up.
MOVES = (
    re.compile(r"^sp, sp, #(?P<by>\w+)(?P<shifted>, lsl #12)?$"),
    re.compile(r"\[sp, #(?P<by>-?\w+)\]!$"),
    re.compile(r"\[sp\], #(?P<by>-?\w+)$"),
)

KINDS = {
    "b": Jump.BRANCH,
    "bl": Jump.CALL,
    "br": Jump.INDIRECT,
    "blr": Jump.INDIRECT_CALL,
    **dict.fromkeys(("cbz", "cbnz", "tbz", "tbnz"), Jump.CONDITIONAL),
    **dict.fromkeys(("ret", "eret", "drps", "brk", "udf"), Jump.END),
}
AUTHENTICATED = re.compile("^(?:br|blr|ret|eret)a[ab]z?$")

BASE = 1 << 40

#: Mask and value of the groups in which the interesting words are; their other bits are random.
GROUPS = (
    (0x7C00_0000, 0x1400_0000),
    (0xFF00_0000, 0x5400_0000),
    (0x7E00_0000, 0x3400_0000),
    (0x7E00_0000, 0x3600_0000),
    (0xFF1F_03FF, 0xD61F_0000),
    (0xFF00_001F, 0xD400_0000),
    (0xBF80_03FF, 0x9100_03FF),
    (0x3A00_03E0, 0x2800_03E0),
    (0x3B20_03E0, 0x3800_03E0),
    (0x0E00_0000, 0x0E00_0000),
    (0x0E00_0000, 0x0C00_0000),
    (0x1E00_0000, 0x0400_0000),
    (0, 0),
)
RETURNS = (0xD65F_03C0, 0xD69F_03E0, 0xD6BF_03E0, 0, 0xFFFF)


def words(count: int) -> Iterator[int]:
    rng = random.Random(20261122)
    yield from RETURNS
    for number in range(count):
        mask, value = GROUPS[number % len(GROUPS)]
        yield rng.getrandbits(32) & ~mask | value


def number(text: str) -> int:
    value = int(text, 0)
    return value - (1 << 64) if value >= SIGNED else value


def grown(mnemonic: str, operands: str) -> int:
    """Bytes by which the stack grows downwards."""
    for pattern in MOVES:
        if (move := pattern.search(operands)) and not mnemonic.startswith(("adds", "subs")):
            by = number(move["by"]) << (12 if "shifted" in pattern.groupindex and move["shifted"] else 0)
            return by if mnemonic == "sub" else -by
    return 0


def test_as_capstone_reads_them() -> None:
    decoder: Any = capstone.Cs(capstone.CS_ARCH_ARM64, capstone.CS_MODE_LITTLE_ENDIAN)
    counts = dict.fromkeys(("jumps", "moves", "vectors"), 0)
    for word in words(60_000):
        for address, _, mnemonic, operands in decoder.disasm_lite(word.to_bytes(4, "little"), BASE):
            shown = f"{word:#010x} {mnemonic} {operands}"
            kind = Jump.CONDITIONAL if mnemonic.startswith(("b.", "bc.")) else KINDS.get(mnemonic)
            found = opcodes.jump(word)
            if not AUTHENTICATED.match(mnemonic):
                assert (found and found[0]) is kind, shown
            if found is not None:
                counts["jumps"] += 1
                assert opcodes.may_jump(word), shown
                if found[0] in (Jump.BRANCH, Jump.CALL, Jump.CONDITIONAL):
                    assert (address + found[1]) == number(operands.rsplit("#", 1)[1]), shown
            # Structures and prefetches of SVE, and some of its counts, name no vector.
            if opcodes.uses_vectors(word) and word & 0x1E00_0000 != 0x0400_0000:
                counts["vectors"] += 1
                assert VECTOR.search(operands), shown
            elif not opcodes.uses_vectors(word):
                assert not VECTOR.search(operands), shown
            counts["moves"] += bool(grown(mnemonic, operands))
            assert opcodes.stack_growth(word) == grown(mnemonic, operands), shown
    assert min(counts.values()) > 3000
