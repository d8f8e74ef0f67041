# SPDX-License-Identifier: Apache-2.0
"""The generic timer (DDI 0487, D12): control fields and the interrupts of the Arm base system architecture."""

from __future__ import annotations

from enum import IntEnum

from gz.bits import Register, field


class CNT_CTL(Register):
    """CNTP_CTL_EL0, CNTV_CTL_EL0, CNTHP_CTL_EL2."""

    ENABLE = field(0)
    IMASK = field(1)
    ISTATUS = field(2)
    """Condition met; read-only."""


class TimerInterrupt(IntEnum):
    """INTIDs that every board and both clients use; a board's own are in its tree."""

    EL2_PHYSICAL = 26
    EL1_VIRTUAL = 27
    EL2_VIRTUAL = 28
    EL1_PHYSICAL_SECURE = 29
    EL1_PHYSICAL = 30


MAINTENANCE_INTERRUPT = 25
"""INTID of the GIC's virtual maintenance interrupt."""
PMU_INTERRUPT = 23
"""INTID of the performance monitors' overflow interrupt."""


class TimerIndex(IntEnum):
    """Order of the interrupts in the tree's node \"arm,armv8-timer\"."""

    SECURE_PHYSICAL = 0
    PHYSICAL = 1
    VIRTUAL = 2
    HYPERVISOR = 3
