# SPDX-License-Identifier: Apache-2.0
"""What this world can see of the CPU: every register of the ID space (op0 3, op1 0, CRn 0, CRm 0 to 7), and whether the
registers of features that guests are not told about can be read.
"""

from __future__ import annotations

from gz.arm64.insn import isb
from gz.arm64.registers import CPACR_EL1
from gz.arm64.syndrome import UNDEFINED, ExceptionClass
from gz.arm64.sysreg import TABLE, sysreg
from gz.bits import Va, table, u32, u64
from gz.core.register_policy import DISPOSITIONS, Fate
from gz.metal import export, log
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.slot import run

_MRS = 0xD520_0000
_OP0_3 = 3 << 19
_REGISTERS = 64
_EC_SHIFT = 26

HIDDEN = tuple(
    TABLE[name]
    for row in DISPOSITIONS
    if row.fate is Fate.UNDEFINED
    for name in row.registers
    if TABLE[name].access != "wo"
)
_ENCODINGS = table(u32, [r.op0 << 19 | r.op1 << 16 | r.crn << 12 | r.crm << 8 | r.op2 << 5 for r in HIDDEN])


@export
def payload(tree: Va) -> None:
    exceptions.expect()
    sysreg.CPACR_EL1 = CPACR_EL1(FPEN=3, ZEN=3, SMEN=3)
    isb()
    for i in range(_REGISTERS):
        value, esr = run(u32(_MRS | _OP0_3 | (i >> 3) << 8 | (i & 7) << 5), 0)
        if esr == 0:
            log(f"identity {i} {value}")
        else:
            log(f"exception {i} {esr}")
    for i in range(len(_ENCODINGS)):
        _, esr = run(_MRS | _ENCODINGS[i], 0)
        if esr == 0:
            log(f"visible {i} {u64(_ENCODINGS[i])}")
        elif esr != UNDEFINED and esr >> _EC_SHIFT != ExceptionClass.SYSREG:  # the latter by FEAT_IDST
            log(f"wrong {i} {esr}")
