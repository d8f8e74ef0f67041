# SPDX-License-Identifier: Apache-2.0
"""Exception vectors of EL2 (DDI 0487 D1.3.1) and the register moves that metal can't express.

A trap from below saves x0–x30 at the address in TPIDR_EL2, calls `lower_sync`, `lower_irq`, `lower_fiq` or
`lower_serror` with that context and resumes the context it returns.  A trap from EL2 itself is a bug: its
registers go into a `Fault` and `unexpected` panics on a stack of its own.
"""

from __future__ import annotations

import gz.core.cpu  # noqa: F401  (contexts refer to the struct)
from gz.bits import Array, Struct, array, u64
from gz.core.context import Context, FpState
from gz.metal import assembly, extern


class Fault(Struct):
    """What the vectors saved of an exception taken at EL2 itself; `kind` counts the vectors from 1."""

    x: Array[u64] = array(31)
    sp: u64
    kind: u64


@extern
def fp_save(state: FpState) -> None: ...


@extern
def fp_load(state: FpState) -> None: ...


VECTOR_LENGTH_MAX = 256  # bytes


def sve_size(vector_length: u64) -> u64:
    """Bytes of Z0–Z31, P0–P15 and FFR, at a vector length in bytes."""
    return 32 * vector_length + 17 * (vector_length // 8)


#: Bytes, as EL2 has it.
@extern
def sve_vector_length() -> u64: ...


#: `ffr` 0: the CPU has none at the moment (streaming mode).
@extern
def sve_save(state: u64, ffr: u64) -> None: ...


@extern
def sve_load(state: u64, ffr: u64) -> None: ...


EMERGENCY_STACK_SIZE = 4096

#: Functions that the vectors call on another stack than the CPU's, and its size: checked at build.
OWN_STACKS = {"unexpected": EMERGENCY_STACK_SIZE}

_PAIRS = [(n, n + 1) for n in range(2, 30, 2)]
_X = Context.offset("x")
assert _X == 0, "the vectors address x0–x30 from the context's start"


def _lower(handler: str) -> str:
    save = "\n".join(f"    stp x{a}, x{b}, [x0, #{8 * a}]" for a, b in _PAIRS)
    return f"""
    .balign 128
    stp x0, x1, [sp, #-16]!
    mrs x0, tpidr_el2
{save}
    str x30, [x0, #240]
    ldp x2, x3, [sp], #16
    stp x2, x3, [x0]
    mov x29, xzr
    bl {handler}
    b resume
"""


def _own(kind: int) -> str:
    # The fault may be the stack's, and nothing below EL2 will run again: EL1's registers are free to hold ours.
    return f"""
    .balign 128
    msr tpidr_el0, x0
    msr tpidr_el1, x1
    msr sp_el0, x2
    mov x1, #{kind}
    b own_exception
"""


_OWN = f"""
own_exception:
    adrp x0, emergency_taken
    add x0, x0, :lo12:emergency_taken
1:  ldaxr w2, [x0]
    cbnz w2, 2f
    stxr w2, w1, [x0]
    cbnz w2, 1b
    b 3f
2:  wfi
    b 2b
3:  adrp x0, emergency_fault
    add x0, x0, :lo12:emergency_fault
{chr(10).join(f"    stp x{a}, x{b}, [x0, #{8 * a}]" for a, b in _PAIRS)}
    str x30, [x0, #240]
    str x1, [x0, #{Fault.offset("kind")}]
    mrs x1, tpidr_el0
    mrs x2, tpidr_el1
    stp x1, x2, [x0]
    mrs x1, sp_el0
    mov x2, sp
    str x1, [x0, #16]
    str x2, [x0, #{Fault.offset("sp")}]
    adrp x1, emergency_stack_top
    add x1, x1, :lo12:emergency_stack_top
    mov sp, x1
    bl unexpected
4:  wfi
    b 4b
"""

_RESUME = f"""
    .global resume
    .type resume, %function
resume:
    msr tpidr_el2, x0
{chr(10).join(f"    ldp x{a}, x{b}, [x0, #{8 * a}]" for a, b in _PAIRS)}
    ldr x30, [x0, #240]
    ldp x0, x1, [x0]
    eret
    dsb nsh
    isb
"""


def _fp(name: str, pair: str, single: str) -> str:
    moves = "\n".join(f"    {pair} q{n}, q{n + 1}, [x0, #{16 * n}]" for n in range(0, 32, 2))
    status = "\n".join(
        (f"    mrs x1, {r}\n    str x1, [x0, #{FpState.offset(r)}]" if single == "str" else
         f"    ldr x1, [x0, #{FpState.offset(r)}]\n    msr {r}, x1")
        for r in ("fpsr", "fpcr")
    )
    return f"""
    .global {name}
    .type {name}, %function
{name}:
{moves}
{status}
    ret
"""


def _sve(name: str, move: str) -> str:
    # Z0–Z31, P0–P15, FFR, close together. FFR goes through P0: saved after it, loaded before it.
    z = "\n".join(f"    {move} z{n}, [x0, #{n}, mul vl]" for n in range(32))
    p = "\n".join(f"    {move} p{n}, [x2, #{n}, mul vl]" for n in range(16))
    save = "    rdffr p0.b\n    str p0, [x2, #16, mul vl]"
    load = "    ldr p0, [x2, #16, mul vl]\n    wrffr p0.b"
    body = f"{p}\n    cbz x1, 1f\n{save}\n1:" if move == "str" else f"    cbz x1, 1f\n{load}\n1:\n{p}"
    return f"""
    .global {name}
    .type {name}, %function
{name}:
{z}
    addvl x2, x0, #31
    addvl x2, x2, #1
{body}
    ret
"""


_VECTOR_LENGTH = """
    .global sve_vector_length
    .type sve_vector_length, %function
sve_vector_length:
    rdvl x0, #1
    ret
"""
_LOWER = ("lower_sync", "lower_irq", "lower_fiq", "lower_serror")

assembly(
    """
    .arch_extension sve
    .section .text.vectors, "ax"
    .global vectors
    .balign 2048
vectors:
"""
    + "".join(_own(kind) for kind in range(1, 9))
    + "".join(_lower(handler) for handler in _LOWER * 2)  # AArch64, then AArch32 at EL0
    + "    .balign 128\n"
    + _RESUME
    + _OWN
    + _fp("fp_save", "stp", "str")
    + _fp("fp_load", "ldp", "ldr")
    + _sve("sve_save", "str")
    + _sve("sve_load", "ldr")
    + _VECTOR_LENGTH
    + f"""
    .section .bss.emergency, "aw", %nobits
    .balign 16
emergency_taken: .space 16
emergency_fault: .space {Fault.size}
    .balign 16
    .space {EMERGENCY_STACK_SIZE}
emergency_stack_top:
    .text
"""
)
