# SPDX-License-Identifier: Apache-2.0
"""Every kind of instruction that touches memory, at an address that a payload chooses."""

from __future__ import annotations

from gz.arm64.insn import isb
from gz.arm64.registers import CPACR_EL1
from gz.arm64.sysreg import sysreg
from gz.bits import Va, u32, u64
from gz.metal import assembly, extern, peek32
from payloads.slot import run

#: With the address in x0 and whatever is in the others.
INSTRUCTIONS = (
    "ldr x0, [x0]",
    "ldr w0, [x0]",
    "ldrh w0, [x0]",
    "ldrb w0, [x0]",
    "ldrsw x0, [x0]",
    "ldur x0, [x0, #1]",
    "ldr x1, [x0], #8",
    "ldp x0, x1, [x0]",
    "ldnp x0, x1, [x0]",
    "ldr q0, [x0]",
    "ld1 {v0.16b}, [x0]",
    "ldar x0, [x0]",
    "ldxr x0, [x0]",
    "str x0, [x0]",
    "str wzr, [x0]",
    "strh w0, [x0]",
    "strb w0, [x0]",
    "str x0, [x0, #8]",
    "stp x0, x0, [x0]",
    "str q0, [x0]",
    "stlr x0, [x0]",
    "stlxr w1, x0, [x0]",
    "dc zva, x0",
    "dc civac, x0",
    "dc cvau, x0",
    "prfm pldl1keep, [x0]",
    "at s1e1r, x0",
)
COUNT = len(INSTRUCTIONS)

_LINES = "\n".join(f"    {instruction}" for instruction in INSTRUCTIONS)
assembly(
    f"""
    .arch_extension fp
    .arch_extension simd
    .section .rodata.accesses, "a"
    .balign 4
accesses:
{_LINES}

    .section .text.accesses, "ax"
    .global accesses_start
    .type accesses_start, %function
accesses_start:
    adrp x0, accesses
    add x0, x0, :lo12:accesses
    ret
"""
)


@extern
def accesses_start() -> Va: ...


def allow() -> None:
    """Vector registers, too."""
    sysreg.CPACR_EL1 = CPACR_EL1(FPEN=3)
    isb()


def access(index: u32, at: u64) -> u64:
    """The syndrome of what access `index` takes at an address; 0: nothing."""
    _, esr = run(peek32(accesses_start() + 4 * index), at)
    return esr
