# SPDX-License-Identifier: Apache-2.0
"""Leaving an instruction behind that EL2 carried out, as if the CPU had: PC + 4 and, while software steps, the step is
done (DDI 0487, D2.11.3: SPSR.SS = 0 is active-pending, the step exception comes before the next instruction)."""

from __future__ import annotations

from gz.arm64.registers import SPSR
from gz.arm64.sysreg import sysreg
from gz.core.context import Context
from gz.metal import inline

_INSTRUCTION = 4  # bytes


@inline
def skip() -> None:
    """The world below EL2 is on this CPU."""
    sysreg.ELR_EL2 = sysreg.ELR_EL2 + _INSTRUCTION
    sysreg.SPSR_EL2 = sysreg.SPSR_EL2 & ~SPSR(SS=1)


@inline
def skip_saved(context: Context) -> None:
    """It isn't."""
    context.elr += _INSTRUCTION
    context.spsr &= ~SPSR(SS=1)


@inline
def repeat() -> None:
    """Back to the HVC that ELR_EL2 is behind; it counts as one step once it is done."""
    sysreg.ELR_EL2 = sysreg.ELR_EL2 - _INSTRUCTION
    sysreg.SPSR_EL2 = sysreg.SPSR_EL2 | SPSR(SS=sysreg.MDSCR_EL1)
