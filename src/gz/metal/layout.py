# SPDX-License-Identifier: Apache-2.0
"""Where the image lies in its own address space and how its stacks are spaced: for linker and core."""

from __future__ import annotations

PAGE = 4096

#: In the last quarter of a 48-bit space: above every linear window and device window the core maps.
LINK_ADDRESS = 0xC000_0000_0000

#: One stack per physical CPU. Each lies above a guard page that the core leaves unmapped: CPU n's guard is at
#: __stacks_start + n * STACK_STRIDE, its stack ends at __stacks_start + (n + 1) * STACK_STRIDE.
STACK_COUNT = 8
STACK_SIZE = 4 * PAGE
STACK_STRIDE = PAGE + STACK_SIZE
