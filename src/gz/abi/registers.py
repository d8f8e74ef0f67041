# SPDX-License-Identifier: Apache-2.0
"""Register ids of SET_ONE_REG and GET_ONE_REG, encoded as KVM does (Linux, virt/kvm/api.rst, KVM_SET_ONE_REG)."""

from __future__ import annotations

from gz.bits import Array, Register, Struct, array, field, u32, u64

ARCHITECTURE = 0x60
CLASS_CORE = 0x10
CLASS_DEMUX = 0x11
CLASS_SYSTEM = 0x13


class RegisterId(Register):
    ARCH = field(63, 56)
    SIZE = field(55, 52)
    """log2 of the size in bytes: 2, 3 or 4."""
    CLASS = field(27, 16)
    INDEX = field(15, 0)


class SystemIndex(Register, width=32):
    """INDEX of a system register."""

    OP0 = field(15, 14)
    OP1 = field(13, 11)
    CRN = field(10, 7)
    CRM = field(6, 3)
    OP2 = field(2, 0)


class CoreFrame(Struct):
    """INDEX of a core register is its byte offset in this frame divided by 4."""

    x: Array[u64] = array(31)
    sp: u64
    pc: u64
    pstate: u64
    sp_el1: u64
    elr_el1: u64
    spsr: Array[u64] = array(5)
    padding: u64
    v: Array[u64] = array(64)
    """V0-V31, two halves each."""
    fpsr: u32
    fpcr: u32


def core_register(offset: int, size: int = 8) -> int:
    """The id of the core register at a byte offset of :class:`CoreFrame`; size in bytes."""
    return int(RegisterId(ARCH=ARCHITECTURE, SIZE=size.bit_length() - 1, CLASS=CLASS_CORE, INDEX=offset // 4))


def system_register(op0: int, op1: int, crn: int, crm: int, op2: int) -> int:
    """The id of a 64-bit system register."""
    index = int(SystemIndex(OP0=op0, OP1=op1, CRN=crn, CRM=crm, OP2=op2))
    return int(RegisterId(ARCH=ARCHITECTURE, SIZE=3, CLASS=CLASS_SYSTEM, INDEX=index))


def x(n: int) -> int:
    """The id of Xn, n = 0…30."""
    if not 0 <= n <= 30:
        raise ValueError(f"there is no X{n}")
    return core_register(CoreFrame.offset("x") + 8 * n)


X0 = x(0)
SP = core_register(CoreFrame.offset("sp"))
PC = core_register(CoreFrame.offset("pc"))
PSTATE = core_register(CoreFrame.offset("pstate"))
SP_EL1 = core_register(CoreFrame.offset("sp_el1"))
ELR_EL1 = core_register(CoreFrame.offset("elr_el1"))
SPSR_EL1 = core_register(CoreFrame.offset("spsr"))
FPSR = core_register(CoreFrame.offset("fpsr"), 4)
FPCR = core_register(CoreFrame.offset("fpcr"), 4)

BOOT_PSTATE = 0x3C5
"""EL1h with D, A, I and F masked: what both public clients set on every vCPU."""
