# SPDX-License-Identifier: Apache-2.0
"""One instruction of the payload's choice: written into a slot of the code and run there."""

from __future__ import annotations

from gz.arm64.insn import dc, dsb, ic, isb
from gz.bits import Va, u32, u64
from gz.metal import assembly, extern, poke32
from payloads import exceptions

assembly(
    """
    .section .text.slot, "ax"
    .global slot
    .type slot, %function
slot:
    nop
    ret

    .global slot_address
    .type slot_address, %function
slot_address:
    adrp x0, slot
    add x0, x0, :lo12:slot
    ret
"""
)


@extern
def slot(value: u64) -> u64: ...


@extern
def slot_address() -> Va: ...


def put(at: Va, instruction: u32) -> None:
    """The next that is run at this address, by this CPU and the others."""
    poke32(at, instruction)
    dc("cvau", at)
    dsb("ish")
    ic("ivau", at)
    dsb("ish")
    isb()


def run(instruction: u32, value: u64) -> tuple[u64, u64]:
    """x0 after the instruction with x0 = value before it, and the syndrome of the exception or 0."""
    put(slot_address(), instruction)
    result = slot(value)
    return result, exceptions.taken()
