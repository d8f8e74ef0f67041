# SPDX-License-Identifier: Apache-2.0
"""Leaving an instruction behind that EL2 carried out, as if the CPU had: the PC moves and, while software steps, the
step is done (DDI 0487, D2.11.3: SPSR.SS = 0 is active-pending, the step exception comes before the next instruction).

At EL0 it may be one of AArch32: of two bytes (ESR_EL2.IL = 0), or in an IT block, which goes on as well (ITAdvance)."""

from __future__ import annotations

from gz.arm64.registers import SPSR, SPSR_AArch32
from gz.arm64.syndrome import ESR_EL2
from gz.arm64.sysreg import sysreg
from gz.bits import u32, u64
from gz.core.context import Context
from gz.metal import cold, inline

_INSTRUCTION = 4  # bytes
_SHORT = 2


@inline
def skip() -> None:
    """The world below EL2 is on this CPU, ESR_EL2 that of the instruction."""
    spsr = sysreg.SPSR_EL2
    if SPSR(spsr).AArch32 != 0:
        _skip_aarch32(spsr)
    else:
        sysreg.ELR_EL2 = sysreg.ELR_EL2 + _INSTRUCTION
        sysreg.SPSR_EL2 = sysreg.SPSR_EL2 & ~SPSR(SS=1)  # read again: a mask of one bit is one instruction


@cold
def _skip_aarch32(spsr: u64) -> None:
    sysreg.ELR_EL2 = sysreg.ELR_EL2 + length(ESR_EL2(sysreg.ESR_EL2))
    sysreg.SPSR_EL2 = _stepped_aarch32(spsr)


@inline
def length(esr: ESR_EL2) -> u32:
    """Bytes of the instruction that trapped."""
    return _INSTRUCTION if esr.IL != 0 else _SHORT


@inline
def skip_saved(context: Context, size: u32) -> None:
    """It isn't; the instruction had `size` bytes."""
    context.elr += size
    if SPSR(context.spsr).AArch32 != 0:
        context.spsr = _stepped_aarch32(context.spsr)
    else:
        context.spsr &= ~SPSR(SS=1)


@cold
def _stepped_aarch32(value: u64) -> u64:
    """The last instruction of an IT block ends it: IT[2:0] = 0."""
    spsr = SPSR_AArch32(value)
    block = spsr.IT7_2 << 2 | spsr.IT1_0
    rest: u64 = 0
    if block & 7 != 0:
        rest = block & 0xE0 | block << 1 & 0x1F
    return spsr.replace(SS=0, IT7_2=rest >> 2, IT1_0=rest)


@inline
def repeat() -> None:
    """Back to the HVC that ELR_EL2 is behind; it counts as one step once it is done."""
    sysreg.ELR_EL2 = sysreg.ELR_EL2 - _INSTRUCTION
    sysreg.SPSR_EL2 = sysreg.SPSR_EL2 | SPSR(SS=sysreg.MDSCR_EL1)
