# SPDX-License-Identifier: Apache-2.0
"""What programs do between the loader and Python: pieces of assembly for images linked by gz.metal.image.

The MMU and the caches are off, memory is addressed relative to the PC, each piece ends where the next one begins.
"""

from __future__ import annotations

from gz.arm64.image import MAGIC, ImageFlags

_FLAGS = ImageFlags(PAGE_SIZE=1, ANYWHERE=1)
_PA_RANGE_MAX = 5  # 48 bits: 52 take another descriptor format

#: The arm64 Image header; the loader's jump goes to `primary_entry`.
HEADER = f"""
    .section .head.text, "ax"
    .global _start
_start:
    b primary_entry
    .long 0
    .quad 0
    .quad __image_size
    .quad {int(_FLAGS):#x}
    .quad 0, 0, 0
    .long {MAGIC:#x}
    .long 0
"""

#: Zeros in .bss. Changes x0 and x1.
CLEAR_BSS = """
    adrp x0, __bss_start
    add x0, x0, :lo12:__bss_start
    adrp x1, __bss_end
1:  stp xzr, xzr, [x0], #16
    cmp x0, x1
    b.lo 1b
"""

#: What was written with the caches off must not be hidden by lines from before. Changes x0 to x3.
DROP_LINES = """
    mrs x2, ctr_el0
    ubfx x2, x2, #16, #4
    mov x3, #4
    lsl x3, x3, x2
    adrp x0, __bss_start
    adrp x1, __image_end
3:  dc ivac, x0
    add x0, x0, x3
    cmp x0, x1
    b.lo 3b
    dsb sy
"""


def insert_pa_range(low: int, width: int) -> str:
    """The CPU's physical address size goes into a field of the translation control in x0. Changes x1 and x2."""
    return f"""
    mrs x1, id_aa64mmfr0_el1
    and x1, x1, #15
    mov x2, #{_PA_RANGE_MAX}
    cmp x1, x2
    csel x1, x1, x2, lo
    bfi x0, x1, #{low}, #{width}
"""
