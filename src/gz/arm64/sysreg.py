# SPDX-License-Identifier: Apache-2.0
"""Every system register by name: ``sysreg.HCR_EL2`` is its value, ``SysRegs.HCR_EL2`` its encoding.

The one table of encodings: the compiler emits them, the trap handlers decode with them.
"""

from __future__ import annotations

from gz.arm64.debug_registers import DebugRegisters
from gz.arm64.el1_registers import El1Registers
from gz.arm64.el2_registers import El2Registers
from gz.arm64.gic_registers import GicRegisters
from gz.arm64.id_registers import IdRegisters
from gz.arm64.insn import read, write
from gz.arm64.performance_registers import PerformanceRegisters
from gz.arm64.timer_registers import TimerRegisters
from gz.bits.sysreg import SysReg

__all__ = ["TABLE", "SysReg", "SysRegs", "read", "sysreg", "write"]


class SysRegs(
    IdRegisters,
    El1Registers,
    El2Registers,
    TimerRegisters,
    GicRegisters,
    PerformanceRegisters,
    DebugRegisters,
):
    """All registers; the groups are a file each."""


sysreg = SysRegs()

TABLE: dict[str, SysReg] = {
    name: register
    for group in SysRegs.__bases__
    for name, register in vars(group).items()
    if isinstance(register, SysReg)
}
"""Name to register, in the order of the files."""
