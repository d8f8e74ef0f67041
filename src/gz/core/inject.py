# SPDX-License-Identifier: Apache-2.0
"""Exceptions taken to EL1 on behalf of the hardware (DDI 0487, AArch64.TakeException); the world's EL1 state is live."""

from __future__ import annotations

from gz.arm64.registers import SCTLR_EL1, SPSR
from gz.arm64.syndrome import ESR_EL2, ExceptionClass
from gz.arm64.sysreg import sysreg
from gz.bits import u64
from gz.metal import inline

_EL1H = 0b0101
_VECTOR_SAME_SP0 = 0x000
_VECTOR_SAME_SPX = 0x200
_VECTOR_LOWER_A64 = 0x400
_VECTOR_LOWER_A32 = 0x600
_EXTERNAL_ABORT = 0x10  # DFSC, IFSC: synchronous external abort, not on a walk


@inline
def from_el0(spsr: SPSR) -> bool:
    return spsr.M & 0xF == 0


def exception(syndrome: u64, far: u64) -> None:
    """A synchronous exception with ESR_EL1 = `syndrome` and FAR_EL1 = `far`."""
    spsr = SPSR(sysreg.SPSR_EL2)
    sctlr = SCTLR_EL1(sysreg.SCTLR_EL1)
    offset: u64 = _VECTOR_SAME_SPX
    if spsr.M & 0x10 != 0:
        offset = _VECTOR_LOWER_A32
    elif from_el0(spsr):
        offset = _VECTOR_LOWER_A64
    elif spsr.M & 1 == 0:
        offset = _VECTOR_SAME_SP0
    sysreg.ESR_EL1 = syndrome
    sysreg.FAR_EL1 = far
    sysreg.ELR_EL1 = sysreg.ELR_EL2
    sysreg.SPSR_EL1 = spsr
    sysreg.ELR_EL2 = sysreg.VBAR_EL1 + offset
    sysreg.SPSR_EL2 = SPSR(
        M=_EL1H,
        F=1,
        I=1,
        A=1,
        D=1,
        SSBS=sctlr.DSSBS,
        PAN=spsr.PAN | (sctlr.SPAN ^ 1),
        DIT=spsr.DIT,
        TCO=spsr.TCO,
        NZCV=spsr.NZCV,
    )


def undefined() -> None:
    exception(ESR_EL2(EC=ExceptionClass.UNKNOWN, IL=1), sysreg.FAR_EL1)


def abort(syndrome: ESR_EL2, far: u64) -> None:
    """A synchronous external abort for the access that EL2 took with `syndrome`, an instruction or a data abort."""
    same_level = not from_el0(SPSR(sysreg.SPSR_EL2))
    instruction = syndrome.EC == ExceptionClass.INSTRUCTION_ABORT_LOWER
    if instruction:
        ec: u64 = ExceptionClass.INSTRUCTION_ABORT_LOWER
    else:
        ec = ExceptionClass.DATA_ABORT_LOWER
    if same_level:
        ec += 1
    iss: u64 = _EXTERNAL_ABORT
    if not instruction:
        iss |= syndrome.ISS & (1 << 6)  # WnR
    exception(ESR_EL2(EC=ec, IL=syndrome.IL, ISS=iss), far)
