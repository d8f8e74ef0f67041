# SPDX-License-Identifier: Apache-2.0
"""The break- and watchpoints of the CPU, by number."""

from __future__ import annotations

from gz.arm64.debug_registers import DebugRegisters
from gz.arm64.features import ID_AA64DFR0_EL1
from gz.arm64.insn import isb, write
from gz.arm64.sysreg import sysreg
from gz.bits import Va, u32, u64
from gz.core.monitors import COMPARATORS
from gz.metal import unroll

BREAKPOINTS = tuple(
    (n, getattr(DebugRegisters, f"DBGBVR{n}_EL1"), getattr(DebugRegisters, f"DBGBCR{n}_EL1"))
    for n in range(COMPARATORS)
)
WATCHPOINTS = tuple(
    (n, getattr(DebugRegisters, f"DBGWVR{n}_EL1"), getattr(DebugRegisters, f"DBGWCR{n}_EL1"))
    for n in range(COMPARATORS)
)


def count() -> tuple[u32, u32]:
    """Of break- and watchpoints."""
    dfr0 = ID_AA64DFR0_EL1(sysreg.ID_AA64DFR0_EL1)
    return u32(dfr0.BRPs) + 1, u32(dfr0.WRPs) + 1


def set_breakpoint(number: u32, at: Va, value: u64) -> None:
    for n, place, control in unroll(BREAKPOINTS):
        if n == number:
            write(place, u64(at))
            write(control, value)
    isb()


def set_watchpoint(number: u32, at: Va, value: u64) -> None:
    for n, place, control in unroll(WATCHPOINTS):
        if n == number:
            write(place, u64(at))
            write(control, value)
    isb()


def enable(value: u64) -> None:
    sysreg.MDSCR_EL1 = value
    isb()
