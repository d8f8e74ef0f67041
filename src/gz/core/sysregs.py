# SPDX-License-Identifier: Apache-2.0
"""Trapped system registers and system instructions of a guest (world.GUEST_HCR, GUEST_CPTR, GUEST_MDCR).

What isn't an identification register (core/identification.py) and has no row here is an undefined instruction: the
registers of features that guests are not told about, and what is left to implementations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gz.core.counters as counters
import gz.core.debug as debug
import gz.core.identification as identification
import gz.core.timer as timer
import gz.core.vgic as vgic
import gz.core.vgic_mmio as vgic_mmio
import gz.core.world as world
from gz.arm64.insn import dc
from gz.arm64.operations import DC
from gz.arm64.performance_registers import PerformanceRegisters
from gz.arm64.syndrome import SYSREG_MASK, SysRegTrap, register_iss
from gz.arm64.sysreg import SysReg, SysRegs, sysreg
from gz.bits import Va, function_table, table, u8, u32, u64
from gz.core.context import KEY_REGISTERS
from gz.core.monitors import COMPARATORS
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu
from gz.metal import inline

_ZERO_REGISTER = 31


def access(vcpu: Vcpu, iss: u64) -> Outcome:
    """A trapped MRS, MSR or SYS with this syndrome."""
    trap = SysRegTrap(iss)
    key = iss & SYSREG_MASK
    if key & _IDENTIFICATION_MASK == _IDENTIFICATION:
        if trap.Read == 0:
            return Outcome.UNDEFINED
        _write(vcpu, trap.Rt, identification.value(trap.CRm << 3 | trap.Op2))
        return Outcome.SKIP
    row = _find(u32(key))
    if row == len(KEYS):
        return Outcome.UNDEFINED
    if _ACCESS[row] & _LOADS != 0:
        return Outcome(_HANDLERS[row](vcpu, trap, 0))
    if trap.Read != 0:
        if _ACCESS[row] & _READ == 0:
            return Outcome.UNDEFINED
        _write(vcpu, trap.Rt, _HANDLERS[row](vcpu, trap, 0))
    else:
        if _ACCESS[row] & _WRITE == 0:
            return Outcome.UNDEFINED
        value: u64 = 0
        if trap.Rt != _ZERO_REGISTER:
            value = vcpu.context.x[trap.Rt]
        _HANDLERS[row](vcpu, trap, value)
    return Outcome.SKIP


@inline
def _write(vcpu: Vcpu, register: u64, value: u64) -> None:
    if register != _ZERO_REGISTER:
        vcpu.context.x[register] = value


@inline
def _find(key: u32) -> u32:
    low = u32(_FIRST[key >> _GROUP_SHIFT])
    high = u32(_FIRST[(key >> _GROUP_SHIFT) + 1])
    end = high
    while low < high:
        middle = (low + high) // 2
        if KEYS[middle] < key:
            low = middle + 1
        else:
            high = middle
    if low < end and KEYS[low] == key:
        return low
    return len(KEYS)


# Handlers: `value` is written if trap.Read = 0, or the result is what a read gives.

RegisterAccess = Callable[[Vcpu, SysRegTrap, u64], u64]


def zero(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    return 0


def sgi1(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    vgic.send_sgi(vcpu, value, True)
    return 0


def sgi0(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    vgic.send_sgi(vcpu, value, False)
    return 0


def deactivate(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    vgic_mmio.deactivate(vcpu, value)
    return 0


def timer_control(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    if trap.Read == 0:
        timer.set_physical(vcpu, value, vcpu.timer.physical.deadline)
        return 0
    return timer.physical_control(vcpu)


def timer_deadline(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    if trap.Read == 0:
        timer.set_physical(vcpu, vcpu.timer.physical.control, value)
        return 0
    return vcpu.timer.physical.deadline


def timer_value(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    """The lower 32 bits, signed, from now."""
    if trap.Read == 0:
        distance = ((value & 0xFFFF_FFFF) ^ 0x8000_0000) - 0x8000_0000
        timer.set_physical(vcpu, vcpu.timer.physical.control, sysreg.CNTPCT_EL0 + distance)
        return 0
    return timer.physical_value(vcpu)


def physical_count(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    return sysreg.CNTPCT_EL0


def clean_invalidate(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    dc("cisw", Va(value))
    return 0


def clean(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    dc("csw", Va(value))
    return 0


def keys(vcpu: Vcpu, trap: SysRegTrap, value: u64) -> u64:
    return u64(world.load_keys(vcpu))


_READ, _WRITE, _BOTH = 1, 2, 3
_LOADS = 4  # the handler gets the registers into the CPU and gives an Outcome


class Policy(NamedTuple):
    """What becomes of one trapped register, and why."""

    register: Any  # a SysReg, or the Sys of an instruction
    access: int
    handler: RegisterAccess
    reason: str

    @property
    def key(self) -> int:
        """The ISS bits that name it."""
        register = self.register
        if isinstance(register, SysReg):
            return register_iss(register)
        return int(SysRegTrap(Op0=1, Op1=register.op1, CRn=register.crn, CRm=register.crm, Op2=register.op2))


_COMPARATOR = "the vCPU's own; in the CPU while it runs with debug exceptions enabled, beside nobody else's"
_COUNTERS_CRN, _COUNTERS_CRM = 9, 12  # before them: statistical profiling, trace buffer
_CHANNEL = "no debug communication channel: nothing to receive, what is sent is dropped"

POLICY: tuple[Policy, ...] = (
    Policy(SysRegs.ICC_SGI1R_EL1, _WRITE, sgi1, "interrupts between vCPUs"),
    Policy(SysRegs.ICC_SGI0R_EL1, _WRITE, sgi0, "the same, group 0"),
    Policy(SysRegs.ICC_ASGI1R_EL1, _WRITE, sgi0, "the other security state's group: there is one state only"),
    Policy(SysRegs.ICC_DIR_EL1, _WRITE, deactivate, "the interrupt may lie in no list register, or in another CPU's"),
    Policy(SysRegs.CNTPCT_EL0, _READ, physical_count, "not trapped but by QEMU 7.2, at EL0 with the physical timer"),
    Policy(SysRegs.CNTP_CTL_EL0, _BOTH, timer_control, "the physical timer is emulated on CNTHP"),
    Policy(SysRegs.CNTP_CVAL_EL0, _BOTH, timer_deadline, "the physical timer is emulated on CNTHP"),
    Policy(SysRegs.CNTP_TVAL_EL0, _BOTH, timer_value, "the physical timer is emulated on CNTHP"),
    Policy(SysRegs.ACTLR_EL1, _BOTH, zero, "implementation defined controls are the host's"),
    *(Policy(register, _LOADS, keys, "switched at the first use after an entry") for register in KEY_REGISTERS),
    Policy(DC["isw"], _WRITE, clean_invalidate, "data of others must not be lost: cleaned as well"),
    Policy(DC["cisw"], _WRITE, clean_invalidate, "on this CPU, as the instruction would"),
    Policy(DC["csw"], _WRITE, clean, "on this CPU, as the instruction would"),
    Policy(SysRegs.MDSCR_EL1, _BOTH, debug.debug_control, "switched with the vCPU; says when its comparators are"),
    Policy(SysRegs.OSLAR_EL1, _WRITE, debug.os_lock, "each vCPU has its own OS lock"),
    Policy(SysRegs.OSLSR_EL1, _READ, debug.os_lock_status, "each vCPU has its own OS lock"),
    Policy(SysRegs.OSDLR_EL1, _BOTH, zero, "no power-down debug"),
    Policy(SysRegs.DBGPRCR_EL1, _BOTH, zero, "power is PSCI's"),
    Policy(SysRegs.MDRAR_EL1, _READ, zero, "no debug registers in memory"),
    Policy(SysRegs.OSECCR_EL1, _BOTH, zero, "no external debugger"),
    Policy(SysRegs.DBGCLAIMSET_EL1, _BOTH, zero, "no external debugger to agree with"),
    Policy(SysRegs.DBGCLAIMCLR_EL1, _BOTH, zero, "no external debugger to agree with"),
    Policy(SysRegs.DBGAUTHSTATUS_EL1, _READ, zero, "no external debugger"),
    Policy(SysRegs.MDCCINT_EL1, _BOTH, zero, _CHANNEL),
    Policy(SysRegs.OSDTRRX_EL1, _BOTH, zero, _CHANNEL),
    Policy(SysRegs.OSDTRTX_EL1, _BOTH, zero, _CHANNEL),
    Policy(SysRegs.MDCCSR_EL0, _READ, zero, _CHANNEL),
    Policy(SysRegs.DBGDTR_EL0, _BOTH, zero, _CHANNEL),
    Policy(SysRegs.DBGDTRRX_EL0, _BOTH, zero, _CHANNEL),
    *(
        Policy(getattr(SysRegs, f"DBG{kind}{n}_EL1"), _BOTH, handler, _COMPARATOR)
        for kind, handler in (
            ("BVR", debug.breakpoint_value),
            ("BCR", debug.breakpoint_control),
            ("WVR", debug.watchpoint_value),
            ("WCR", debug.watchpoint_control),
        )
        for n in range(COMPARATORS)
    ),
    *(
        Policy(register, _LOADS, counters.load, "the vCPU's own: in the CPU from its first use on, as long as it runs")
        for register in vars(PerformanceRegisters).values()
        if isinstance(register, SysReg) and (register.crm >= _COUNTERS_CRM or register.crn != _COUNTERS_CRN)
    ),
)
_SORTED = sorted(POLICY, key=lambda policy: policy.key)

KEYS = table(u32, [policy.key for policy in _SORTED])
#: Where the keys of each Op0 and Op2, the topmost bits, begin.
_GROUP_SHIFT = 17
_FIRST = table(u8, [sum(policy.key >> _GROUP_SHIFT < group for policy in POLICY) for group in range(33)])
_ACCESS = table(u8, [policy.access for policy in _SORTED])
_HANDLERS = function_table(RegisterAccess, [policy.handler for policy in _SORTED])

#: Op0 = 3, Op1 = 0, CRn = 0: HCR_EL2.TID3 traps CRm 1 to 7.
_IDENTIFICATION = int(SysRegTrap(Op0=3))
_IDENTIFICATION_MASK = int(SysRegTrap(Op0=3, Op1=7, CRn=15))
