# SPDX-License-Identifier: Apache-2.0
"""Group 1 of the host's GIC interface, which traps for the sake of resident guests (ICH_HCR_EL2.TALL1).

ICC_AP1R1 to 3, of which most GICs have none, are 0 and stay so.
"""

from __future__ import annotations

import gz.core.advance as advance
import gz.core.inject as inject
import gz.core.resident as resident
from gz.arm64.insn import isb, read, write
from gz.arm64.syndrome import SYSREG_MASK, SysRegTrap, register_iss
from gz.arm64.sysreg import SysReg, SysRegs
from gz.bits import u64
from gz.core.context import Context
from gz.metal import unroll

_ZERO_REGISTER = 31


def _keys(*registers: SysReg) -> tuple[tuple[SysReg, int], ...]:
    """With what the ISS of a trap names them by."""
    return tuple((register, register_iss(register)) for register in registers)


_EOIR1 = register_iss(SysRegs.ICC_EOIR1_EL1)
_GROUP1 = (SysRegs.ICC_BPR1_EL1, SysRegs.ICC_IGRPEN1_EL1, SysRegs.ICC_AP1R0_EL1)
_GROUP1_READABLE = _keys(*_GROUP1, SysRegs.ICC_IAR1_EL1, SysRegs.ICC_HPPIR1_EL1)
_GROUP1_WRITABLE = _keys(*_GROUP1, SysRegs.ICC_EOIR1_EL1)
_GROUP1_ZERO = _keys(SysRegs.ICC_AP1R1_EL1, SysRegs.ICC_AP1R2_EL1, SysRegs.ICC_AP1R3_EL1)


def access(context: Context, trap: SysRegTrap) -> Context:
    key = trap & SYSREG_MASK
    known = False
    value: u64 = 0
    if trap.Read != 0:
        for register, iss in unroll(_GROUP1_READABLE):
            if key == iss:
                known = True
                value = read(register)
        for _, iss in unroll(_GROUP1_ZERO):
            known = known or key == iss
        if known and trap.Rt != _ZERO_REGISTER:
            context.x[trap.Rt] = value
    else:
        if trap.Rt != _ZERO_REGISTER:
            value = context.x[trap.Rt]
        for register, iss in unroll(_GROUP1_WRITABLE):
            if key == iss:
                known = True
                write(register, value)
        for _, iss in unroll(_GROUP1_ZERO):
            known = known or key == iss
    if not known:
        inject.undefined()
        return context
    isb()
    advance.skip()
    if key == _EOIR1:
        return resident.interrupt_ended(context)
    return context
