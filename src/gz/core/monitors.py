# SPDX-License-Identifier: Apache-2.0
"""What the core keeps of the debug registers of a world; core/debug.py tells how it is used."""

from __future__ import annotations

from gz.bits import Array, Struct, array, u32, u64

COMPARATORS = 16


class Comparators(Struct):
    """Break- and watchpoints, and whether the OS lock is set (OSLSR_EL1.OSLK)."""

    breakpoint_value: Array[u64] = array(COMPARATORS)
    breakpoint_control: Array[u64] = array(COMPARATORS)
    watchpoint_value: Array[u64] = array(COMPARATORS)
    watchpoint_control: Array[u64] = array(COMPARATORS)
    locked: u64


class VcpuDebug(Struct):
    """All of it as the guest wrote it; every access traps, so the CPU holds no more than a copy."""

    control: u64  # MDSCR_EL1
    armed: u32  # the guest's comparators are in the CPU, or software step is on
    own: Comparators
