# SPDX-License-Identifier: Apache-2.0
"""The hypercalls of the host: function ids, identifiers and limits.

Conduit: HVC #0, or the doorbell (:mod:`gz.abi.doorbell`). Arguments in x1-x7, unused ones 0, always full 64-bit
registers; results: status in x0 (:class:`gz.abi.errors.Error`), values in x1-x3.
"""

from __future__ import annotations

from enum import IntEnum

from gz.bits import Register, field


class Call(IntEnum):
    """Index of a call: bits 15:0 of the function id minus 0x1000."""

    CREATE_VM = 0
    DESTROY_VM = 1
    CREATE_VCPU = 2
    DESTROY_VCPU = 3
    SET_MEMREGION = 4
    RUN = 5
    GET_REGS = 6
    SET_REGS = 7
    GET_ONE_REG = 8
    SET_ONE_REG = 9
    IRQ_LINE = 10
    CREATE_DEVICE = 11
    PROBE = 12
    ENABLE_CAP = 13
    INFORM_EXIT = 14
    MEMREGION_PURPOSE = 15
    SET_DTB_CONFIG = 16
    MAP_GUEST = 17
    MAP_GUEST_BLOCK = 18
    GET_STATISTICS = 19


CALL_COUNT = len(Call)

SMC32_BASE = 0xBB00_1000
"""Function id of call 0 in drivers up to version 6: fast, SMC32, owner 59."""
SMC64_BASE = 0xFB00_1000
"""Function id of call 0 in drivers from version 8 on: the same with bit 30."""
SMC64_BIT = SMC64_BASE ^ SMC32_BASE

DRIVER_VERSION = (16, 0, 0)
"""Major, minor, sub: what driver version 13 passes in x1-x3 of PROBE, and what the core answers there."""

INVALID_VMID = 0xFFFF
FIRST_VMID = 1
"""0 in x1 means "no VM" in two queries of driver version 13, so no VM has this number."""
LAST_VMID = 0xFFFE
VCPUS_MAX = 8
"""vCPUs per VM, numbered from 0 by the VMM; the driver refuses more."""
DESTROY_BATCH_PAGES = 128
"""Pages one DESTROY_VM call of driver version 13 asks to process at most; a power of two."""


class VcpuTuple(Register, width=32):
    """x1 of the vCPU calls: which VM, which of its vCPUs."""

    VMID = field(31, 16)
    VCPU = field(15, 0)


def smc32(call: Call) -> int:
    """Function id in the SMC32 column."""
    return SMC32_BASE + call


def smc64(call: Call) -> int:
    """Function id in the SMC64 column, the one new callers use."""
    return SMC64_BASE + call


def call_of(function: int) -> Call | None:
    """The call a function id names in either column, or None."""
    index = (function & ~SMC64_BIT) - SMC32_BASE
    return Call(index) if 0 <= index < CALL_COUNT else None
