# SPDX-License-Identifier: Apache-2.0
"""A virtual CPU: its life cycle and what of it survives between two RUNs."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from gz.bits import Ipa, Pa, Ptr, Struct, u32, u64
from gz.core.context import Context
from gz.core.interrupts import VcpuGic, VcpuTimer
from gz.core.monitors import VcpuCounters, VcpuDebug

if TYPE_CHECKING:
    from gz.core.vm import Vm


class Power(IntEnum):
    """Whether a vCPU runs when the host says so. For its guest it is OFF or on (DEN0022 5.7)."""

    ON = 0
    OFF = 1
    ON_PENDING = 2  # CPU_ON is to be taken up at the next RUN
    CLAIMED = 3  # a CPU_ON is being written down


class PendingAccess(Struct):
    """An emulated load or store that the VMM has to finish; EL2's own record, never read from the run page."""

    active: u32  # exits.ACCESS; exits.CALL: a hypercall whose results are the host's; exits.EVENT; 0: nothing
    repeat: u32  # the VMM has not seen the exit: the next RUN makes it again
    is_write: u32
    size: u32  # bytes: 1, 2, 4, 8
    length: u32  # bytes of the instruction
    register: u32  # x0–x30, 31 is the zero register; of an EVENT, its type
    sign_extend: u32
    is_64bit: u32
    address: Ipa


class Vcpu(Struct, align=4096):
    context: Context  # first: the vectors and world.switch see only this
    vm: Ptr[Vm]
    index: u32
    created: u32
    power: u32  # Power; changed by compare_exchange
    running: u32  # index + 1 of the CPU that has it, 0: none; taken by compare_exchange, a second RUN is refused
    idle: u32  # the last exit was a WFI
    started: u32  # has run at least once
    taken: u64  # counter when the host took the CPU from it although it would have gone on; 0: it did not
    yielded: u32  # it gave the CPU away by WFE since then
    waited: u64  # counter ticks that it has waited so
    exit: u64  # exit reason for the host once a handler answered Outcome.LEAVE
    run_page: Pa  # RunPage; HwState lies on the page behind it
    entry: u64  # PSCI CPU_ON: taken over by the vCPU at its next RUN
    entry_context: u64
    access: PendingAccess
    gic: VcpuGic
    timer: VcpuTimer
    debug: VcpuDebug
    counters: VcpuCounters
