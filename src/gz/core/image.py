# SPDX-License-Identifier: Apache-2.0
"""The arm64 Image header and the way from the loader to Python (Linux, Documentation/arch/arm64/booting.rst).

Entered at EL2 with the MMU off, x0 = physical address of the device tree, at any 2 MiB boundary. Until the
MMU is on everything is addressed relative to the PC. A CPU that PSCI starts enters at `secondary_entry`, x0 =
its index.
"""

from __future__ import annotations

from gz.arm64.descriptors import MAIR, PAGE_SIZE, TG0_4K, Cacheability, Shareability
from gz.arm64.registers import HCR_EL2, SCTLR_EL2, SCTLR_EL2_RES1, TCR_EL2, TCR_EL2_RES1
from gz.bits import Va
from gz.metal import assembly, extern, names, startup
from gz.metal.layout import STACK_STRIDE

#: Stage 1 tables of EL2. Each ragged edge of a bank of RAM takes a level 2 and perhaps a level 3 table.
TABLE_COUNT = 40

_VA_BITS = 48
_CURRENT_EL2 = 2 << 2

_TCR = TCR_EL2(
    TCR_EL2_RES1,
    T0SZ=64 - _VA_BITS,
    IRGN0=Cacheability.WRITE_BACK,
    ORGN0=Cacheability.WRITE_BACK,
    SH0=Shareability.INNER,
    TG0=TG0_4K,
)

_SCTLR = SCTLR_EL2(SCTLR_EL2_RES1, M=1, A=1, C=1, SA=1, I=1, WXN=1)


@extern
def image_start() -> Va: ...


@extern
def image_end() -> Va: ...


@extern
def text_end() -> Va: ...


@extern
def rodata_start() -> Va: ...


@extern
def rodata_end() -> Va: ...


@extern
def data_start() -> Va: ...


@extern
def data_end() -> Va: ...


@extern
def stacks_start() -> Va: ...


@extern
def tables_start() -> Va: ...


@extern
def vectors_start() -> Va: ...


@extern
def names_start() -> Va: ...


@extern
def secondary_start() -> Va: ...  # where a CPU that PSCI starts has to enter, as seen from here


@extern
def frame_pointer() -> Va: ...  # the frame record of the function that calls


_SYMBOLS = {
    image_start: "__image_start",
    image_end: "__image_end",
    text_end: "__text_end",
    rodata_start: "__rodata_start",
    rodata_end: "__rodata_end",
    data_start: "__data_start",
    data_end: "__data_end",
    stacks_start: "__stacks_start",
    tables_start: "core_tables",
    vectors_start: "vectors",
    names_start: names.SYMBOL,
    secondary_start: "secondary_entry",
}


def _symbol(function: str, symbol: str) -> str:
    return f"""
    .section .text.{function}, "ax"
    .global {function}
    .type {function}, %function
{function}:
    adrp x0, {symbol}
    add x0, x0, :lo12:{symbol}
    ret
"""


assembly(
    f"""
{startup.HEADER}
primary_entry:
    msr daifset, #15
    mov x19, x0
{startup.CLEAR_BSS}
    adrp x2, __stacks_start
    mov x3, #{STACK_STRIDE}
    add sp, x2, x3
    mov x29, xzr
    mov x30, xzr
    mov x0, x19
    mrs x2, CurrentEL
    cmp x2, #{_CURRENT_EL2}
    b.eq 2f
    bl without_el2
2:  bl prepare_tables
{startup.DROP_LINES}
    mov x20, #0
    b enable_mmu

    .global secondary_entry
secondary_entry:
    msr daifset, #15
    mov x19, xzr
    mov x20, x0

enable_mmu:
    ldr x0, ={int(HCR_EL2(RW=1)):#x}
    msr hcr_el2, x0
    ldr x0, ={int(MAIR):#x}
    msr mair_el2, x0
    ldr x0, ={int(_TCR):#x}
{startup.insert_pa_range(TCR_EL2.PS.low, TCR_EL2.PS.width)}
    msr tcr_el2, x0
    adrp x0, core_tables
    msr ttbr0_el2, x0
    isb
    tlbi alle2
    ic iallu
    dsb nsh
    isb
    ldr x0, ={int(_SCTLR):#x}
    msr sctlr_el2, x0
    isb
    ldr x0, =mapped
    br x0
mapped:
    adrp x2, __stacks_start
    add x3, x20, #1
    mov x4, #{STACK_STRIDE}
    madd x2, x3, x4, x2
    mov sp, x2
    mov x29, xzr
    mov x30, xzr
    mov x0, x19
    mov x1, x20
    bl start
    b resume
    .ltorg

    .section .text.frame_pointer, "ax"
    .global frame_pointer
    .type frame_pointer, %function
frame_pointer:
    mov x0, x29
    ret

    .section .bss.tables, "aw", %nobits
    .balign {PAGE_SIZE}
core_tables:
    .space {TABLE_COUNT * PAGE_SIZE}
"""
    + "".join(_symbol(function.__name__, symbol) for function, symbol in _SYMBOLS.items())
)
