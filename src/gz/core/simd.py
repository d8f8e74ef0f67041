# SPDX-License-Identifier: Apache-2.0
"""Floating point, SIMD and SVE registers: they stay the host's until a guest first uses its own (CPTR_EL2.TFP, TZ).

Z0–Z31 contain V0–V31, so that where there is SVE both go together. EL2 moves whole vectors, whatever length EL1 chose:
the host's may have any length, those of guests 512 bits at most (ZCR_EL2), for which a frame is enough. SME is the
host's alone: its streaming mode is left while a guest has the registers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.frames as frames
import gz.core.memory as memory
from gz.arm64.features import ID_AA64SMFR0_EL1
from gz.arm64.insn import isb
from gz.arm64.registers import CPTR_EL2, CPTR_EL2_RES1, SVCR, ZCR
from gz.arm64.sysreg import sysreg
from gz.bits import Pa, Va, u64
from gz.core.context import Context
from gz.core.cpu import Cpu
from gz.core.platform import machine
from gz.core.vectors import VECTOR_LENGTH_MAX, fp_load, fp_save, sve_load, sve_save, sve_size, sve_vector_length
from gz.metal import cold, inline

if TYPE_CHECKING:
    from gz.core.vcpu import Vcpu

#: FP/SIMD and SVE trapped until first use; SME, trace and activity monitors never offered.
HOST_ZCR = ZCR(LEN=15)
GUEST_ZCR = ZCR(LEN=3)
GUEST_CPTR = CPTR_EL2(CPTR_EL2_RES1, TFP=1, TZ=1, TSM=1, TTA=1, TAM=1)


def load(vcpu: Vcpu) -> None:
    """The guest's first FP, SIMD or SVE instruction since it was entered: its registers take the host's place."""
    context = vcpu.context
    host = context.cpu.host
    sysreg.CPTR_EL2 = host.cptr
    isb()
    ffr: u64 = 1
    if host.cptr & CPTR_EL2(TSM=1) == 0:
        host.svcr = sysreg.SVCR
        if host.svcr & SVCR(SM=1) != 0:
            ffr = ID_AA64SMFR0_EL1(sysreg.ID_AA64SMFR0_EL1).FA64
    _save(host, ffr)
    if host.svcr & SVCR(SM=1) != 0:
        sysreg.SVCR = host.svcr & ~u64(SVCR(SM=1))
    if context.sve != 0:
        sysreg.ZCR_EL2 = GUEST_ZCR
        isb()
    _load(context, 1)
    context.fp_live = 1
    context.fp_used = 1
    if context.sve != 0:
        sysreg.CPTR_EL2 = GUEST_CPTR.replace(TFP=0, TZ=0)
    else:
        sysreg.CPTR_EL2 = GUEST_CPTR.replace(TFP=0)


@cold
def unload(cpu: Cpu, context: Context) -> None:
    """On the way back to the host, if the guest's registers are in the CPU."""
    host = cpu.host
    sysreg.CPTR_EL2 = host.cptr
    isb()
    _save(context, 1)
    if context.sve != 0:
        sysreg.ZCR_EL2 = HOST_ZCR
        isb()
    ffr: u64 = 1
    if host.svcr & SVCR(SM=1) != 0:
        sysreg.SVCR = host.svcr
        ffr = ID_AA64SMFR0_EL1(sysreg.ID_AA64SMFR0_EL1).FA64
    _load(host, ffr)
    context.fp_live = 0


@inline
def _save(context: Context, ffr: u64) -> None:
    if context.sve != 0:
        context.zcr = sysreg.ZCR_EL1
        sve_save(context.sve, ffr)
    fp_save(context.fp)


@inline
def _load(context: Context, ffr: u64) -> None:
    fp_load(context.fp)
    if context.sve != 0:
        sysreg.ZCR_EL1 = context.zcr
        sve_load(context.sve, ffr)


def create_host(context: Context) -> None:
    """At boot, on a CPU with SVE, which EL2 may use."""
    sysreg.ZCR_EL2 = GUEST_ZCR
    isb()
    machine.vector_length = sve_vector_length()
    sysreg.ZCR_EL2 = HOST_ZCR
    isb()
    if context.sve == 0:
        run = frames.allocate_run(_frames(VECTOR_LENGTH_MAX))
        assert run != Pa(0), "no frames for the SVE state"
        context.sve = u64(memory.va(run))


def reset(context: Context) -> None:
    """All zero; the architecture would leave them as they are."""
    if context.fp_used == 0:
        return
    context.fp_used = 0
    for i in range(64):
        context.fp.v[i] = 0
    context.fp.fpsr = 0
    context.fp.fpcr = 0
    context.zcr = 0
    if context.sve != 0:
        memory.zero(memory.pa(Va(context.sve)), frame_count() * frames.FRAME_SIZE)


@inline
def frame_count() -> u64:
    """Frames of a vCPU's SVE state."""
    return _frames(machine.vector_length)


def _frames(vector_length: u64) -> u64:
    return (sve_size(vector_length) + frames.FRAME_SIZE - 1) // frames.FRAME_SIZE
