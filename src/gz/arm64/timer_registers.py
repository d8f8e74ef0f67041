# SPDX-License-Identifier: Apache-2.0
"""Encodings of the generic timer's registers."""

from __future__ import annotations

from gz.bits.sysreg import SysReg


class TimerRegisters:
    CNTFRQ_EL0 = SysReg(3, 3, 14, 0, 0)
    CNTPCT_EL0 = SysReg(3, 3, 14, 0, 1, "ro")
    CNTVCT_EL0 = SysReg(3, 3, 14, 0, 2, "ro")
    CNTPCTSS_EL0 = SysReg(3, 3, 14, 0, 5, "ro")
    CNTVCTSS_EL0 = SysReg(3, 3, 14, 0, 6, "ro")
    CNTP_TVAL_EL0 = SysReg(3, 3, 14, 2, 0)
    CNTP_CTL_EL0 = SysReg(3, 3, 14, 2, 1)
    CNTP_CVAL_EL0 = SysReg(3, 3, 14, 2, 2)
    CNTV_TVAL_EL0 = SysReg(3, 3, 14, 3, 0)
    CNTV_CTL_EL0 = SysReg(3, 3, 14, 3, 1)
    CNTV_CVAL_EL0 = SysReg(3, 3, 14, 3, 2)

    CNTVOFF_EL2 = SysReg(3, 4, 14, 0, 3)
    CNTPOFF_EL2 = SysReg(3, 4, 14, 0, 6)
    CNTHCTL_EL2 = SysReg(3, 4, 14, 1, 0)
    CNTHP_TVAL_EL2 = SysReg(3, 4, 14, 2, 0)
    CNTHP_CTL_EL2 = SysReg(3, 4, 14, 2, 1)
    CNTHP_CVAL_EL2 = SysReg(3, 4, 14, 2, 2)
    CNTHV_TVAL_EL2 = SysReg(3, 4, 14, 3, 0)
    CNTHV_CTL_EL2 = SysReg(3, 4, 14, 3, 1)
    CNTHV_CVAL_EL2 = SysReg(3, 4, 14, 3, 2)
