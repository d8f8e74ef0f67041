# SPDX-License-Identifier: Apache-2.0
"""Exceptions taken to EL1 in the hardware's place (DDI 0487, AArch64.TakeException); the world's EL1 state is live."""

from __future__ import annotations

import gz.core.trace as trace
from gz.arm64.registers import SCTLR_EL1, SPSR, Mode
from gz.arm64.syndrome import ESR_EL2, DataAbort, ExceptionClass, FaultStatus
from gz.arm64.sysreg import sysreg
from gz.bits import u64
from gz.metal import inline

_VECTOR_SAME_SP0 = 0x000
_VECTOR_SAME_SPX = 0x200
_VECTOR_LOWER_A64 = 0x400
_VECTOR_LOWER_A32 = 0x600


@inline
def from_el0(spsr: SPSR) -> bool:
    return spsr.M == Mode.EL0T


def exception(syndrome: u64, far: u64) -> None:
    """A synchronous exception with ESR_EL1 = `syndrome` and FAR_EL1 = `far`."""
    spsr = SPSR(sysreg.SPSR_EL2)
    sctlr = SCTLR_EL1(sysreg.SCTLR_EL1)
    offset: u64 = _VECTOR_SAME_SPX
    if spsr.AArch32 != 0:
        offset = _VECTOR_LOWER_A32
    elif from_el0(spsr):
        offset = _VECTOR_LOWER_A64
    elif spsr.M == Mode.EL1T:
        offset = _VECTOR_SAME_SP0
    trace.record_exception(syndrome, sysreg.ELR_EL2)
    sysreg.ESR_EL1 = syndrome
    sysreg.FAR_EL1 = far
    sysreg.ELR_EL1 = sysreg.ELR_EL2
    sysreg.SPSR_EL1 = spsr
    sysreg.ELR_EL2 = sysreg.VBAR_EL1 + offset
    sysreg.SPSR_EL2 = SPSR(
        M=Mode.EL1H,
        F=1,
        I=1,
        A=1,
        D=1,
        SSBS=sctlr.DSSBS,
        PAN=spsr.PAN | (sctlr.SPAN ^ 1),
        DIT=spsr.DIT,
        TCO=spsr.TCO,
        N=spsr.N,
        Z=spsr.Z,
        C=spsr.C,
        V=spsr.V,
    )


def endless() -> bool:
    """What was to be fetched is the vector of the abort that comes of it: whoever runs there stays there."""
    return SPSR(sysreg.SPSR_EL2).M == Mode.EL1H and sysreg.ELR_EL2 == sysreg.VBAR_EL1 + _VECTOR_SAME_SPX


def undefined() -> None:
    exception(ESR_EL2(EC=ExceptionClass.UNKNOWN, IL=1), sysreg.FAR_EL1)


def abort(syndrome: ESR_EL2, far: u64) -> None:
    """A synchronous external abort for the access that EL2 took with `syndrome`, an instruction or a data abort."""
    fault(syndrome, far, FaultStatus.EXTERNAL)


def fault(syndrome: ESR_EL2, far: u64, status: FaultStatus) -> None:
    """The same with another status."""
    same_level = not from_el0(SPSR(sysreg.SPSR_EL2))
    instruction = syndrome.EC == ExceptionClass.INSTRUCTION_ABORT_LOWER
    if instruction:
        ec: u64 = ExceptionClass.INSTRUCTION_ABORT_LOWER
    else:
        ec = ExceptionClass.DATA_ABORT_LOWER
    if same_level:
        ec += 1
    iss = DataAbort(DFSC=status)
    if not instruction:
        iss = iss.replace(WnR=DataAbort(syndrome.ISS).WnR)
    exception(ESR_EL2(EC=ec, IL=syndrome.IL, ISS=iss), far)
