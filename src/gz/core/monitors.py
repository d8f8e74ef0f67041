# SPDX-License-Identifier: Apache-2.0
"""What the core keeps of debug registers (core/debug.py) and performance monitors (core/counters.py)."""

from __future__ import annotations

from gz.bits import Array, Struct, array, u32, u64

COMPARATORS = 16
EVENT_COUNTERS = 31


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


class Counters(Struct):
    """The performance monitors of a world that hasn't got the CPU's."""

    control: u64  # PMCR_EL0
    enabled: u64
    interrupts: u64
    overflows: u64
    selected: u64  # PMSELR_EL0
    user: u64  # PMUSERENR_EL0
    cycles: u64
    cycle_filter: u64
    count: Array[u64] = array(EVENT_COUNTERS)
    type: Array[u64] = array(EVENT_COUNTERS)


class HostCounters(Struct):
    own: Counters
    counting: u32  # PMCR_EL0.E, which is off while a guest runs
    deaf: u32  # the host has not enabled the overflow interrupt


class VcpuCounters(Struct):
    own: Counters
    live: u32  # they are in the CPU
    wanted: u32  # they have to be there whenever the vCPU runs
    held: u32  # PPI 23 is active at the physical redistributor because of this vCPU
