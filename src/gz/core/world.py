# SPDX-License-Identifier: Apache-2.0
"""Switching a CPU between two worlds.  What only one of them uses stays where it is."""

from __future__ import annotations

import gz.core.counters as counters
import gz.core.debug as debug
import gz.core.extensions as extensions
import gz.core.kick as kick
import gz.core.list_registers as list_registers
import gz.core.simd as simd
import gz.core.spinning as spinning
import gz.core.stolen_time as stolen_time
import gz.core.timer as timer
import gz.core.vgic as vgic
import gz.core.watching as watching
from gz.arm64.features import ID_AA64ISAR1_EL1, ID_AA64ISAR2_EL1, ID_AA64PFR1_EL1
from gz.arm64.insn import isb, read, write
from gz.arm64.registers import HCR_EL2, MDCR_EL2, TCR_EL1
from gz.arm64.sysreg import SysRegs, sysreg
from gz.bits import u64
from gz.core.context import EL1_REGISTERS, KEY_REGISTERS, Context
from gz.core.cpu import Cpu
from gz.core.outcome import Outcome
from gz.core.platform import machine
from gz.core.vcpu import Vcpu
from gz.metal import cold, inline, unroll

#: HCR_EL2 of a guest: stage 2 on, interrupts to EL2, identification and implementation registers trapped.
GUEST_HCR = HCR_EL2(
    VM=1, SWIO=1, FMO=1, IMO=1, AMO=1, FB=1, BSU=1, TWI=1, TID3=1, TSC=1, TIDCP=1, TACR=1, TSW=1, RW=1, TLOR=1, TERR=1
)
#: Every access to debug registers (core/debug.py) traps, to performance monitors the first one (core/counters.py).
GUEST_MDCR = MDCR_EL2(TDA=1, TDOSA=1, TDRA=1, TPM=1, TPMCR=1, TTRF=1, TPMS=1)

_SWITCHED = tuple(register for register in EL1_REGISTERS if register is not SysRegs.TCR_EL1)
_WALKS_OFF = TCR_EL1(EPD0=1, EPD1=1)
_TCR = EL1_REGISTERS.index(SysRegs.TCR_EL1)


@inline
def _save(context: Context) -> None:
    context.elr = sysreg.ELR_EL2
    context.spsr = sysreg.SPSR_EL2
    for i, register in unroll(tuple(enumerate(EL1_REGISTERS))):
        context.el1[i] = read(register)


@inline
def _load(context: Context) -> None:
    """Walks are off while EL1's and stage 2's registers belong to different worlds: Cortex errata 1319367, 1165522."""
    sysreg.TCR_EL1 = _WALKS_OFF
    isb()
    for i, register in unroll(tuple((EL1_REGISTERS.index(r), r) for r in _SWITCHED)):
        write(register, context.el1[i])
    sysreg.VTTBR_EL2 = context.vttbr
    sysreg.HCR_EL2 = context.hcr
    sysreg.VMPIDR_EL2 = context.vmpidr
    sysreg.MDCR_EL2 = context.mdcr
    sysreg.CPTR_EL2 = context.cptr
    sysreg.ELR_EL2 = context.elr
    sysreg.SPSR_EL2 = context.spsr
    isb()
    sysreg.TCR_EL1 = context.el1[_TCR]


@inline
def enter(cpu: Cpu, vcpu: Vcpu) -> None:
    """From the host to `vcpu`, whose context becomes the one to resume."""
    if cpu.kick_ready == 0:
        kick.prepare(cpu)
    context = vcpu.context
    context.cpu = cpu
    _save(cpu.host)
    context.mdcr = GUEST_MDCR | cpu.mdcr
    if cpu.mdcr != 0:
        counters.enter(vcpu)
    if vcpu.vm.watched != 0:
        watching.route(vcpu)
    if vcpu.debug.armed != 0:
        debug.load(vcpu)
    if cpu.extensions != 0:
        extensions.enter(cpu.extensions, cpu.host, context)
    locked = vgic.acquire(vcpu)
    timer.load(vcpu, locked)
    list_registers.load(vcpu, locked)
    vgic.release(locked)
    sysreg.ICC_IGRPEN0_EL1 = 1  # kicks arrive
    _load(context)
    cpu.running = vcpu
    if vcpu.taken != 0:
        stolen_time.resume(vcpu)
    if vcpu.vm.waiting != 0:
        spinning.watch(vcpu)


@inline
def leave(cpu: Cpu, vcpu: Vcpu) -> None:
    """From `vcpu` back to the host."""
    context = vcpu.context
    if context.fp_live != 0:
        simd.unload(cpu, context)
    if HCR_EL2(context.hcr).VSE != 0:  # until the guest has taken its SError
        context.hcr = HCR_EL2(context.hcr).replace(VSE=HCR_EL2(sysreg.HCR_EL2).VSE)
    if vcpu.debug.armed != 0:
        debug.unload(vcpu)
    if context.keys_live != 0:
        _unload_keys(cpu, context)
    _save(context)
    if cpu.mdcr != 0:
        counters.leave(vcpu)
    sysreg.ICC_IGRPEN0_EL1 = 0
    list_registers.save(vcpu)
    timer.save(vcpu)
    _load(cpu.host)
    if cpu.extensions != 0:
        extensions.leave(cpu.extensions, cpu.host, context)
    cpu.running = None


def guest_hcr() -> u64:
    """HCR_EL2 of a guest; with FWB the attributes of stage2.guest_memory() decide on memory types alone.

    Memory tags: ATA = 0, so that tags can't be reached and their registers trap; TID5 hides GMID_EL1 as well.
    """
    value = GUEST_HCR
    if machine.forces_write_back != 0:
        value = value.replace(FWB=1)
    if ID_AA64PFR1_EL1(sysreg.ID_AA64PFR1_EL1).MTE != 0:
        value = value.replace(TID5=1)
    return value


def has_keys() -> bool:
    """FEAT_PAuth."""
    isar1 = ID_AA64ISAR1_EL1(sysreg.ID_AA64ISAR1_EL1)
    return isar1.APA | isar1.API | ID_AA64ISAR2_EL1(sysreg.ID_AA64ISAR2_EL1).APA3 != 0


def load_keys(vcpu: Vcpu) -> Outcome:
    """The guest's first use of pointer authentication since it was entered: its keys take the host's place.

    Until then it can neither read the host's keys nor sign with them (HCR_EL2.APK, API).
    """
    if not has_keys():
        return Outcome.UNDEFINED
    context = vcpu.context
    _exchange_keys(context.cpu.host, context)
    context.keys_live = 1
    sysreg.HCR_EL2 = HCR_EL2(sysreg.HCR_EL2).replace(APK=1, API=1)
    return Outcome.RESUME


@cold
def _unload_keys(cpu: Cpu, context: Context) -> None:
    _exchange_keys(context, cpu.host)
    context.keys_live = 0


def _exchange_keys(old: Context, new: Context) -> None:
    for i, register in unroll(tuple(enumerate(KEY_REGISTERS))):
        old.keys[i] = read(register)
        write(register, new.keys[i])


def prepare(context: Context, vmid_table: u64, vmpidr: u64) -> None:
    """What EL2 decides about a guest's context; the rest is the guest's own."""
    context.hcr = guest_hcr()
    context.cptr = simd.GUEST_CPTR
    context.vttbr = vmid_table
    context.vmpidr = vmpidr
