# SPDX-License-Identifier: Apache-2.0
"""Breakpoints, watchpoints and single-step of guests (DDI 0487, D2), kept apart from the host's.

Every access of a guest traps (world.GUEST_MDCR).  Its comparators are in the CPU only while it has debug exceptions
enabled, MDSCR_EL1.MDE or SS with the OS lock open, and runs; else the host's stay there and MDSCR_EL1, which is
switched with the world, keeps them still.
"""

from __future__ import annotations

import gz.core.watching as watching
from gz.arm64.debug_registers import DebugRegisters
from gz.arm64.features import ID_AA64DFR0_EL1
from gz.arm64.insn import read, write
from gz.arm64.registers import DBGBCR, DBGWCR, MDSCR_EL1, OSLSR_EL1
from gz.arm64.syndrome import SysRegTrap
from gz.arm64.sysreg import sysreg
from gz.bits import Array, storage, u64
from gz.core.cpu import CPU_COUNT_MAX
from gz.core.monitors import COMPARATORS, Comparators
from gz.core.vcpu import Vcpu
from gz.metal import cold, inline, unroll

_ENABLES = MDSCR_EL1(SS=1, MDE=1)
_CONTROL = MDSCR_EL1(SS=1, TDCC=1, KDE=1, MDE=1)
#: What exists without EL2 and EL3: no other security state or higher level, no match of VMIDs or EL2's contexts.
_BREAKPOINT = DBGBCR(E=1, PMC=3, BAS=15, LBN=15, BT=3)
_WATCHPOINT = DBGWCR(E=1, PAC=3, LSC=3, BAS=0xFF, LBN=15, WT=1, MASK=31)


def _numbered(value: str, control: str) -> tuple[tuple[int, object, object], ...]:
    return tuple(
        (n, getattr(DebugRegisters, f"{value}{n}_EL1"), getattr(DebugRegisters, f"{control}{n}_EL1"))
        for n in range(COMPARATORS)
    )


_BREAKPOINTS = _numbered("DBGBVR", "DBGBCR")
_WATCHPOINTS = _numbered("DBGWVR", "DBGWCR")

#: The host's while a guest's are in the CPU.
HOST = storage(Comparators, CPU_COUNT_MAX)


@cold
def load(vcpu: Vcpu) -> None:
    """The guest's comparators take the host's place."""
    host = HOST[vcpu.context.cpu.index]
    dfr0 = ID_AA64DFR0_EL1(sysreg.ID_AA64DFR0_EL1)
    for n, value, control in unroll(_BREAKPOINTS):
        if n <= dfr0.BRPs:
            host.breakpoint_value[n] = read(value)
            host.breakpoint_control[n] = read(control)
    for n, value, control in unroll(_WATCHPOINTS):
        if n <= dfr0.WRPs:
            host.watchpoint_value[n] = read(value)
            host.watchpoint_control[n] = read(control)
    host.locked = OSLSR_EL1(sysreg.OSLSR_EL1).OSLK
    _put(vcpu.debug.own)
    sysreg.OSLAR_EL1 = 0


@cold
def unload(vcpu: Vcpu) -> None:
    """The host's are back."""
    host = HOST[vcpu.context.cpu.index]
    sysreg.OSLAR_EL1 = host.locked
    _put(host)


def _put(comparators: Comparators) -> None:
    dfr0 = ID_AA64DFR0_EL1(sysreg.ID_AA64DFR0_EL1)
    for n, value, control in unroll(_BREAKPOINTS):
        if n <= dfr0.BRPs:
            write(value, comparators.breakpoint_value[n])
            write(control, comparators.breakpoint_control[n])
    for n, value, control in unroll(_WATCHPOINTS):
        if n <= dfr0.WRPs:
            write(value, comparators.watchpoint_value[n])
            write(control, comparators.watchpoint_control[n])


def reset(vcpu: Vcpu) -> None:
    """As a warm reset leaves it (DDI 0487, OSLSR_EL1); the vCPU doesn't run."""
    state = vcpu.debug
    state.control = 0
    state.armed = 0
    state.own.locked = 1
    for n in range(COMPARATORS):
        state.own.breakpoint_value[n] = 0
        state.own.breakpoint_control[n] = 0
        state.own.watchpoint_value[n] = 0
        state.own.watchpoint_control[n] = 0


def _apply(vcpu: Vcpu) -> None:
    """MDSCR_EL1 as it works: behind the OS lock there are no debug exceptions but those of BRK."""
    state = vcpu.debug
    control = state.control
    if state.own.locked != 0:
        control &= ~_ENABLES
    armed = control & _ENABLES != 0
    if armed and state.armed == 0:
        state.armed = 1
        load(vcpu)
    elif not armed and state.armed != 0:
        state.armed = 0
        unload(vcpu)
    sysreg.MDSCR_EL1 = control
    if vcpu.vm.watched != 0:
        watching.route(vcpu)
        sysreg.MDCR_EL2 = vcpu.context.mdcr


# Trapped registers: the value is written, or the result is what a read gives.


def debug_control(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    if trap.Read == 0:
        vcpu.debug.control = value & _CONTROL
        _apply(vcpu)
    return vcpu.debug.control


def os_lock(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    vcpu.debug.own.locked = value & 1
    _apply(vcpu)
    return 0


def os_lock_status(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    return OSLSR_EL1(OSLM1=1, OSLK=vcpu.debug.own.locked)


def breakpoint_value(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    return _comparator(vcpu, trap, vcpu.debug.own.breakpoint_value, value)


def breakpoint_control(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    return _comparator(vcpu, trap, vcpu.debug.own.breakpoint_control, value & _BREAKPOINT)


def watchpoint_value(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    return _comparator(vcpu, trap, vcpu.debug.own.watchpoint_value, value)


def watchpoint_control(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    return _comparator(vcpu, trap, vcpu.debug.own.watchpoint_control, value & _WATCHPOINT)


@inline
def _comparator(vcpu: Vcpu, trap: SysRegTrap, registers: Array[u64], value: u64) -> u64:
    """CRm is the number; those that the CPU does not have are undefined before they trap."""
    if trap.Read == 0:
        registers[trap.CRm] = value
        if vcpu.debug.armed != 0:
            _put(vcpu.debug.own)
    return registers[trap.CRm]
