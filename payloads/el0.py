# SPDX-License-Identifier: Apache-2.0
"""EL0 for payloads: their gigabyte mapped once more for it, and a way there that comes back with the next exception."""

from __future__ import annotations

from gz.arm64.descriptors import BLOCK, GIGABYTE_SHIFT, PAGE_SIZE, MairIndex, Shareability, Stage1
from gz.arm64.insn import dsb, isb, tlbi
from gz.arm64.sysreg import sysreg
from gz.bits import Va, u64
from gz.metal import assembly, extern, poke64

#: To execute and read, for it alone.
PROGRAM = Stage1(BLOCK, AttrIndx=MairIndex.NORMAL, SH=Shareability.INNER, AF=1, AP1=1, AP2=1, PXN=1, nG=1)
#: To read and write.
DEVICES = Stage1(BLOCK, AttrIndx=MairIndex.DEVICE, AF=1, AP1=1, PXN=1, XN=1, nG=1)
_CALLEE_SAVED = [(n, n + 1) for n in range(19, 29, 2)] + [(29, 30)]
_FRAME = 16 * (len(_CALLEE_SAVED) + 1)

assembly(
    f"""
    .section .text.el0, "ax"
    .balign 2048
el0_vectors:
    .space 0x400
    b el0_return
    .balign 0x200
    b el0_return

    .global at_el0
    .type at_el0, %function
at_el0:
    sub sp, sp, #{_FRAME}
{chr(10).join(f"    stp x{a}, x{b}, [sp, #{16 * i}]" for i, (a, b) in enumerate(_CALLEE_SAVED))}
    mrs x4, vbar_el1
    str x4, [sp, #{_FRAME - 16}]
    adr x4, el0_vectors
    msr vbar_el1, x4
    msr elr_el1, x0
    msr spsr_el1, x1
    isb
    mov x0, x2
    mov x1, x3
    eret
el0_return:
    ldr x2, [sp, #{_FRAME - 16}]
    msr vbar_el1, x2
    isb
{chr(10).join(f"    ldp x{a}, x{b}, [sp, #{16 * i}]" for i, (a, b) in enumerate(_CALLEE_SAVED))}
    add sp, sp, #{_FRAME}
    ret
"""
)


# Gives x0 at the exception that ends it; ESR_EL1 and ELR_EL1 tell of that one.
@extern
def at_el0(entry: u64, pstate: u64, x0: u64, x1: u64) -> u64: ...


def map_gigabyte(number: u64, leaf: u64, output: u64) -> None:
    """Gigabyte `number` of the addresses is that of address `output`."""
    table = sysreg.TTBR0_EL1 & ~u64(PAGE_SIZE - 1)
    poke64(Va(table + 8 * number), leaf | output >> GIGABYTE_SHIFT << GIGABYTE_SHIFT)
    dsb("ishst")
    tlbi("vmalle1")
    dsb("nsh")
    isb()
