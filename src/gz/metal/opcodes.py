# SPDX-License-Identifier: Apache-2.0
"""A64 instruction words, as far as calls, the stack and forbidden registers go (Arm ARM, C4.1)."""

from __future__ import annotations

from enum import Enum


class Jump(Enum):
    """How an instruction may leave the one behind it."""

    BRANCH = "b"
    CONDITIONAL = "b.cond, cbz, tbz and their like"
    CALL = "bl"
    INDIRECT = "br"
    INDIRECT_CALL = "blr"
    END = "ret, eret, brk, udf"


#: Of the register-indirect branches, by opc without its upper bit, which is one of pointer authentication's forms.
_INDIRECT = {0: Jump.INDIRECT, 1: Jump.INDIRECT_CALL, 2: Jump.END, 4: Jump.END, 5: Jump.END}
_SP = 31


def uses_vectors(word: int) -> bool:
    """Does it name an FP, SIMD, SVE or SME register? Loads and stores with V = 1, data processing of op0 x111, and
    the encodings of SVE and SME."""
    if word & 0x0C00_0000 == 0x0C00_0000:
        return word & 0x3F20_0C00 != 0x1D00_0400  # copies and sets memory
    return word & 0x1E00_0000 == 0x0400_0000 or word & 0x9E00_0000 == 0x8000_0000


def may_jump(word: int) -> bool:
    """Is it of the group in which all that `jump` knows is?"""
    return word & 0x1C00_0000 == 0x1400_0000 or word < 0x1_0000


def jump(word: int) -> tuple[Jump, int] | None:
    """How it leaves, and the distance to its target in bytes (0 if it has none); None: it goes on behind it."""
    if word & 0x7C00_0000 == 0x1400_0000:
        return Jump.CALL if word >> 31 else Jump.BRANCH, _signed(word, 26) * 4
    if word & 0xFF00_0000 == 0x5400_0000 or word & 0x7E00_0000 == 0x3400_0000:
        return Jump.CONDITIONAL, _signed(word >> 5, 19) * 4
    if word & 0x7E00_0000 == 0x3600_0000:
        return Jump.CONDITIONAL, _signed(word >> 5, 14) * 4
    if word & 0xFE00_0000 == 0xD600_0000:
        kind = _INDIRECT.get(word >> 21 & 7)
        return (kind, 0) if kind else None
    if word & 0xFFE0_001F == 0xD420_0000 or word < 0x1_0000:
        return Jump.END, 0
    return None


def stack_growth(word: int) -> int:
    """Bytes by which it moves the stack pointer down (up: negative): addition and subtraction of a constant,
    loads and stores with pre- and post-index."""
    if word & 0xBF80_03FF == 0x9100_03FF:
        amount = (word >> 10 & 0xFFF) << (12 if word & 1 << 22 else 0)
        return amount if word & 1 << 30 else -amount
    if word >> 5 & 31 != _SP:
        return 0
    if word & 0x3A80_0000 == 0x2880_0000:
        scale = 2 + (word >> 30) if word & 1 << 26 else 2 + (word >> 31)
        return -(_signed(word >> 15, 7) << scale)
    if word & 0x3B20_0400 == 0x3800_0400:
        return -_signed(word >> 12, 9)
    return 0


def _signed(value: int, bits: int) -> int:
    value &= (1 << bits) - 1
    return value - (value >> bits - 1 << bits)
