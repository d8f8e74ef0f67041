# SPDX-License-Identifier: Apache-2.0
"""A virtual CPU: its life cycle and what of it survives between two RUNs."""

from __future__ import annotations

from enum import IntEnum

import gz.core.enter as enter
import gz.core.exits as exits
import gz.core.frames as frames
import gz.core.memory as memory
import gz.core.stage2 as stage2
import gz.core.timer as timer
import gz.core.vgic as vgic
import gz.core.world as world
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.abi.registers import CLASS_CORE, BOOT_PSTATE, CoreFrame, RegisterId
from gz.arm64.sysreg import SysRegs
from gz.bits import Ipa, Pa, Ptr, Struct, i64, sizeof, u32, u64
from gz.core.context import EL1_REGISTERS, Context
from gz.core.outcome import Outcome
from gz.core.timer import VcpuTimer
from gz.core.vgic import VcpuGic
from gz.metal import compare_exchange, inline, load_acquire, store_release, view


class Power(IntEnum):
    """PSCI's view: AFFINITY_INFO answers these numbers (DEN0022 5.7)."""

    ON = 0
    OFF = 1
    ON_PENDING = 2


class PendingAccess(Struct):
    """An emulated load or store that the VMM has to finish; EL2's own record, never read from the run page."""

    active: u32
    is_write: u32
    size: u32  # bytes: 1, 2, 4, 8
    register: u32  # x0–x30; 31 is the zero register
    sign_extend: u32
    is_64bit: u32
    address: Ipa


class Vcpu(Struct, align=4096):
    context: Context  # first: the vectors and world.switch see only this
    vm: Ptr[Vm]
    index: u32
    created: u32
    power: u32  # Power; changed by compare_exchange
    running: u32  # 1 while a CPU has it; taken by compare_exchange, two RUNs at once are refused
    cpu_index: u32  # where it runs (valid while running)
    idle: u32  # the last exit was a WFI
    started: u32  # has run at least once
    exit: u64  # exit reason for the host once a handler answered Outcome.LEAVE
    run_page: Pa  # RunPage; HwState lies on the page behind it
    entry: u64  # PSCI CPU_ON: taken over by the vCPU at its next RUN
    entry_context: u64
    access: PendingAccess
    gic: VcpuGic
    timer: VcpuTimer
