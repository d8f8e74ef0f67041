# SPDX-License-Identifier: Apache-2.0
"""ESR_ELx: why an exception was taken (DDI 0487, ESR_EL2), and syndromes for exceptions that are injected."""

from __future__ import annotations

from enum import IntEnum

from gz.bits import Register, field
from gz.bits.sysreg import SysReg


class ExceptionClass(IntEnum):
    """ESR_ELx.EC."""

    UNKNOWN = 0x00
    WFX = 0x01
    CP15_32 = 0x03
    CP15_64 = 0x04
    CP14_32 = 0x05
    CP14_LDC = 0x06
    FP = 0x07
    """Access to SVE, Advanced SIMD or floating point trapped by CPACR_EL1.FPEN or CPTR_ELx.TFP."""
    CP10_ID = 0x08
    PAC = 0x09
    LS64 = 0x0A
    CP14_64 = 0x0C
    BTI = 0x0D
    ILLEGAL_STATE = 0x0E
    SVC32 = 0x11
    HVC32 = 0x12
    SMC32 = 0x13
    SVC64 = 0x15
    HVC64 = 0x16
    SMC64 = 0x17
    SYSREG = 0x18
    SVE = 0x19
    ERET = 0x1A
    PAC_FAIL = 0x1C
    SME = 0x1D
    INSTRUCTION_ABORT_LOWER = 0x20
    INSTRUCTION_ABORT_SAME = 0x21
    PC_ALIGNMENT = 0x22
    DATA_ABORT_LOWER = 0x24
    DATA_ABORT_SAME = 0x25
    SP_ALIGNMENT = 0x26
    MOPS = 0x27
    FP_EXCEPTION32 = 0x28
    FP_EXCEPTION64 = 0x2C
    SERROR = 0x2F
    BREAKPOINT_LOWER = 0x30
    BREAKPOINT_SAME = 0x31
    STEP_LOWER = 0x32
    STEP_SAME = 0x33
    WATCHPOINT_LOWER = 0x34
    WATCHPOINT_SAME = 0x35
    BKPT32 = 0x38
    VECTOR_CATCH32 = 0x3A
    BRK64 = 0x3C


EXCEPTION_CLASSES = 64


class ESR_EL2(Register):
    """Also ESR_EL1."""

    ISS = field(24, 0)
    IL = field(25)
    """1: a 32-bit instruction, or a class for which the length means nothing."""
    EC = field(31, 26)
    """An :class:`ExceptionClass`."""
    ISS2 = field(36, 32)


class DataAbort(Register):
    """ISS of data aborts; SAS to AR hold only with ISV."""

    DFSC = field(5, 0)
    """A :class:`FaultStatus`."""
    WnR = field(6)
    S1PTW = field(7)
    """The stage 2 fault happened on a stage 1 table walk."""
    CM = field(8)
    """A cache maintenance instruction or AT."""
    EA = field(9)
    FnV = field(10)
    SET = field(12, 11)
    VNCR = field(13)
    AR = field(14)
    SF = field(15)
    """The transfer register is 64 bits wide."""
    SRT = field(20, 16)
    """Transfer register; 31 is the zero register."""
    SSE = field(21)
    """A load extends the sign."""
    SAS = field(23, 22)
    """log2 of the access size in bytes."""
    ISV = field(24)


class InstructionAbort(Register):
    IFSC = field(5, 0)
    """A :class:`FaultStatus`."""
    S1PTW = field(7)
    EA = field(9)
    FnV = field(10)
    SET = field(12, 11)


class FaultStatus(IntEnum):
    """DFSC and IFSC. The faults of tables have one value per level: level 0 stands here, add the level."""

    ADDRESS_SIZE = 0b000000
    TRANSLATION = 0b000100
    ACCESS_FLAG = 0b001000
    PERMISSION = 0b001100
    EXTERNAL = 0b010000
    TAG_CHECK = 0b010001
    EXTERNAL_ON_WALK = 0b010100
    ECC = 0b011000
    ECC_ON_WALK = 0b011100
    ALIGNMENT = 0b100001
    TLB_CONFLICT = 0b110000
    ATOMIC_UPDATE = 0b110001
    LOCKDOWN = 0b110100
    EXCLUSIVE_OR_ATOMIC = 0b110101


FAULT_TYPE_MASK = 0b111100
"""Leaves the kind of a table's fault, drops the level."""


class SysRegTrap(Register):
    """ISS of a trapped MRS, MSR or system instruction."""

    Read = field(0)
    """1: MRS."""
    CRm = field(4, 1)
    Rt = field(9, 5)
    CRn = field(13, 10)
    Op1 = field(16, 14)
    Op2 = field(19, 17)
    Op0 = field(21, 20)


SYSREG_MASK = 0x3F_FC1E
"""The bits of the ISS that name the register: compare with :func:`register_iss`."""


def register_iss(register: SysReg) -> int:
    """How the ISS of a trapped access names a system register."""
    iss = SysRegTrap(Op0=register.op0, Op1=register.op1, CRn=register.crn, CRm=register.crm, Op2=register.op2)
    return int(iss)


class Wfx(Register):
    """ISS of a trapped wait."""

    TI = field(1, 0)
    """A :class:`WfxInstruction`."""
    RV = field(2)
    RN = field(9, 5)
    COND = field(23, 20)
    CV = field(24)


class WfxInstruction(IntEnum):
    WFI = 0
    WFE = 1
    WFIT = 2
    WFET = 3


class CallIss(Register):
    """ISS of HVC, SMC, SVC and BRK."""

    imm16 = field(15, 0)


class FpIss(Register):
    COND = field(23, 20)
    CV = field(24)


def syndrome(exception: ExceptionClass, iss: int = 0) -> int:
    """ESR_ELx of a class and an ISS, instruction length 32 bits."""
    return int(ESR_EL2(EC=exception, IL=1, ISS=iss))


UNDEFINED = syndrome(ExceptionClass.UNKNOWN)
"""What EL1 gets for an undefined instruction."""
EXTERNAL_DATA_ABORT = syndrome(ExceptionClass.DATA_ABORT_LOWER, int(DataAbort(DFSC=FaultStatus.EXTERNAL)))
"""A synchronous external abort of an access at EL0; add :data:`SAME_LEVEL` for one at EL1."""
EXTERNAL_INSTRUCTION_ABORT = syndrome(
    ExceptionClass.INSTRUCTION_ABORT_LOWER, int(InstructionAbort(IFSC=FaultStatus.EXTERNAL))
)
SAME_LEVEL = 1 << 26
"""Turns an abort from a lower level into one from the same level."""


class VectorOffset(IntEnum):
    """From VBAR_ELx (DDI 0487, D1.3.1): the synchronous entry; IRQ, FIQ and SError follow 0x80 bytes apart."""

    CURRENT_SP0 = 0x000
    CURRENT_SPX = 0x200
    LOWER_AARCH64 = 0x400
    LOWER_AARCH32 = 0x600
