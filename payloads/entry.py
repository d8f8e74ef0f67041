# SPDX-License-Identifier: Apache-2.0
"""From the loader to Python at EL1: arm64 Image header, identity map, stack, vectors.

Entered with the MMU off, x0 = the device tree (Linux, Documentation/arch/arm64/booting.rst). Runs wherever it
is loaded in the first 512 GiB: everything is addressed relative to the PC. A payload defines `payload(tree)`;
when it returns the machine is powered off.
"""

from __future__ import annotations

from gz.arm64.descriptors import (
    BLOCK,
    GIGABYTE_SHIFT,
    MAIR,
    PAGE_SIZE,
    TABLE_ENTRIES,
    Cacheability,
    MairIndex,
    Shareability,
    Stage1,
)
from gz.arm64.registers import SCTLR_EL1, SCTLR_EL1_RES1, TCR_EL1
from gz.metal import startup
from gz.metal.layout import STACK_STRIDE

_DEVICE = Stage1(BLOCK, AttrIndx=MairIndex.DEVICE, AF=1, PXN=1, XN=1)
_NORMAL = Stage1(BLOCK, AttrIndx=MairIndex.NORMAL, SH=Shareability.INNER, AF=1, XN=1)
_TCR = TCR_EL1(
    T0SZ=64 - 39,
    EPD1=1,
    IRGN0=Cacheability.WRITE_BACK,
    ORGN0=Cacheability.WRITE_BACK,
    SH0=Shareability.INNER,
)
_SCTLR = SCTLR_EL1(SCTLR_EL1_RES1, M=1, C=1, I=1, SA=1)

#: What a function may change (procedure call standard, 6.1.1), in pairs.
_SAVED = [(n, n + 1) for n in range(0, 18, 2)] + [(18, 29), (30, 31)]
_FRAME = 16 * len(_SAVED)


def _name(register: int) -> str:
    return "xzr" if register == 31 else f"x{register}"


def _moves(instruction: str) -> str:
    return "\n".join(f"    {instruction} {_name(a)}, {_name(b)}, [sp, #{16 * i}]" for i, (a, b) in enumerate(_SAVED))


_UNEXPECTED = "    .balign 128\n    b unexpected\n"

_VECTORS = f"""
    .section .text.vectors, "ax"
    .balign 2048
vectors:
{_UNEXPECTED * 4}
    .balign 128
    b exception_entry
    .balign 128
    sub sp, sp, #{_FRAME}
{_moves("stp")}
    bl interrupt
{_moves("ldp")}
    add sp, sp, #{_FRAME}
    eret
{_UNEXPECTED * 10}
exception_entry:
    sub sp, sp, #{_FRAME}
{_moves("stp")}
    mrs x0, esr_el1
    mrs x1, elr_el1
    mrs x2, far_el1
    bl exception
    msr elr_el1, x0
{_moves("ldp")}
    add sp, sp, #{_FRAME}
    eret
unexpected:
    mrs x0, esr_el1
    mrs x1, elr_el1
    mrs x2, far_el1
    bl fault
"""


def program(tree: str) -> str:
    """All of it; `tree` is the register that `payload` finds in its argument."""
    return (
        f"""
{startup.HEADER}
primary_entry:
    msr daifset, #15
    mov x19, {tree}
{startup.CLEAR_BSS}
    adrp x0, identity_table
    ldr x1, ={int(_DEVICE):#x}
    str x1, [x0]
    ldr x1, ={int(_NORMAL):#x}
    mov x2, #1
2:  orr x3, x1, x2, lsl #{GIGABYTE_SHIFT}
    str x3, [x0, x2, lsl #3]
    add x2, x2, #1
    cmp x2, #{TABLE_ENTRIES}
    b.ne 2b

{startup.DROP_LINES}
    bl enable_mmu
    adrp x0, __stacks_start
    mov x1, #{STACK_STRIDE}
    add sp, x0, x1
    mov x29, xzr
    mov x30, xzr
    mov x0, x19
    bl find_uart
    mov x0, x19
    bl payload
    bl power_off

    // And the vectors; on the stack pointer of EL1.
    .global enable_mmu
enable_mmu:
    ldr x0, ={int(MAIR):#x}
    msr mair_el1, x0
    ldr x0, ={int(_TCR):#x}
{startup.insert_pa_range(TCR_EL1.IPS.low, TCR_EL1.IPS.width)}
    msr tcr_el1, x0
    adrp x0, identity_table
    msr ttbr0_el1, x0
    adrp x0, vectors
    add x0, x0, :lo12:vectors
    msr vbar_el1, x0
    isb
    tlbi vmalle1
    ic iallu
    dsb nsh
    isb
    ldr x0, ={int(_SCTLR):#x}
    msr sctlr_el1, x0
    isb
    msr spsel, #1
    ret
    .ltorg

    .section .bss.identity, "aw", %nobits
    .balign {PAGE_SIZE}
identity_table:
    .space {8 * TABLE_ENTRIES}
"""
        + _VECTORS
    )
