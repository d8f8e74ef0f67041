# SPDX-License-Identifier: Apache-2.0
"""The host VM: its stage 2, what EL2 lets it use of a CPU, and its traps.

Stage 2 is the identity over everything but the core's memory and the doorbell page; memory types are the
host's. What the ID registers show the host, it has: nothing of it traps.
"""

from __future__ import annotations

import gz.core.advance as advance
import gz.core.calls as calls
import gz.core.counters as counters
import gz.core.extensions as extensions
import gz.core.host_gic as host_gic
import gz.core.host_memory as host_memory
import gz.core.inject as inject
import gz.core.pages as pages
import gz.core.panic as dying
import gz.core.power as power
import gz.core.resident as resident
import gz.core.simd as simd
import gz.core.speculation as speculation
import gz.core.stage2 as stage2
import gz.core.world as world
from gz.abi import doorbell
from gz.abi.calls import CALL_COUNT, SMC32_BASE, SMC64_BIT
from gz.abi.errors import Error
from gz.arm64.features import (
    ID_AA64DFR0_EL1,
    ID_AA64PFR0_EL1,
    ID_AA64PFR1_EL1,
)
from gz.arm64.insn import dsb, isb, tlbi
from gz.arm64.registers import (
    CNTHCTL_EL2,
    CPTR_EL2,
    CPTR_EL2_RES1,
    HCR_EL2,
    HPFAR_EL2,
    MDCR_EL2,
    SCTLR_EL1_RES1,
    SPSR,
    Mode,
)
from gz.arm64.smccc import NOT_SUPPORTED
from gz.arm64.syndrome import ESR_EL2, FAULT_TYPE_MASK, DataAbort, ExceptionClass, FaultStatus, SysRegTrap
from gz.arm64.sysreg import sysreg
from gz.bits import Ipa, Pa, u32, u64
from gz.core.context import Context
from gz.core.cpu import Cpu
from gz.core.host_memory import HOST
from gz.core.platform import machine
from gz.metal import cold, inline

_START = SPSR(M=Mode.EL1H, F=1, I=1, A=1, D=1)
_UPPER_RANGE = 1 << 55  # of an address, that TTBR1_EL1 translates
_SMCR_ALL = 1 << 31 | 1 << 30 | 0xF  # FA64, EZT0, LEN


def create_stage2() -> None:
    """The identity over all that stage 2 can name, without the core's memory and the doorbell."""
    assert stage2.create(HOST, stage2.HOST_VMID), "no frames for the host's stage 2"
    start: u64 = 0
    while start < stage2.limit():
        hole, end = _next_hole(start)
        if hole > start:
            error = stage2.map(HOST, Ipa(start), Pa(start), hole - start, stage2.NORMAL)
            assert error == Error.NO_ERROR, "the host's stage 2 does not fit into the core's frames"
        start = end


def _next_hole(start: u64) -> tuple[u64, u64]:
    """The first stretch from `start` on that the host must not see; at the limit, one of no size."""
    first, size = stage2.limit(), u64(0)
    image = machine.image
    pool = machine.pool
    first, size = _nearer(start, first, size, image.base, image.size)
    first, size = _nearer(start, first, size, pool.base, pool.size)
    first, size = _nearer(start, first, size, machine.doorbell, doorbell.DOORBELL_SIZE)
    for i in range(machine.guest_count):
        ram = machine.guests[i].memory
        first, size = _nearer(start, first, size, ram.base, ram.size)
    return first, first + size


@inline
def _nearer(start: u64, first: u64, size: u64, base: Pa, length: u64) -> tuple[u64, u64]:
    at = u64(base)
    return (at, length) if length != 0 and start <= at < first else (first, size)


def hcr() -> HCR_EL2:
    """Stage 2 on, SMC trapped, interrupts the host's."""
    pfr0 = ID_AA64PFR0_EL1(sysreg.ID_AA64PFR0_EL1)
    pfr1 = ID_AA64PFR1_EL1(sysreg.ID_AA64PFR1_EL1)
    value = HCR_EL2(VM=1, SWIO=1, TSC=1, RW=1, TWI=1 if machine.guest_count != 0 else 0)
    if world.has_keys():
        value = value.replace(APK=1, API=1)
    if pfr1.MTE != 0:
        value = value.replace(ATA=1)
    if pfr0.CSV2 >= 2 or pfr1.CSV2_frac >= 2:
        value = value.replace(EnSCXT=1)
    if pfr0.RAS >= 2:
        value = value.replace(FIEN=1)
    return value


def cptr() -> CPTR_EL2:
    """No trap for FP/SIMD, nor for SVE and SME where they exist."""
    value = CPTR_EL2(CPTR_EL2_RES1, TZ=1, TSM=1)
    if ID_AA64PFR0_EL1(sysreg.ID_AA64PFR0_EL1).SVE != 0:
        value = value.replace(TZ=0)
    if ID_AA64PFR1_EL1(sysreg.ID_AA64PFR1_EL1).SME != 0:
        value = value.replace(TSM=0)
    return value


def mdcr() -> MDCR_EL2:
    """All counters, the profiling buffer and the trace buffer are the host's."""
    dfr0 = ID_AA64DFR0_EL1(sysreg.ID_AA64DFR0_EL1)
    value = counters.mdcr()
    if dfr0.PMSVer != 0:
        value = value.replace(E2PB=3)
    if dfr0.TraceBuffer != 0:
        value = value.replace(E2TB=3)
    return value


def _grant_features(cpu: Cpu) -> None:
    """What needs a word from EL2 before EL1 may use it."""
    pfr0 = ID_AA64PFR0_EL1(sysreg.ID_AA64PFR0_EL1)
    pfr1 = ID_AA64PFR1_EL1(sysreg.ID_AA64PFR1_EL1)
    cpu.extensions = extensions.survey(cpu)
    cpu.host.hcrx = extensions.host_hcrx()
    extensions.grant(cpu.extensions, cpu.host)
    if cpu.extensions & extensions.FINE_TRAPS != 0 and pfr0.AMU != 0:
        sysreg.HAFGRTR_EL2 = 0
    if pfr0.RAS != 0:
        sysreg.VSESR_EL2 = 0
    if pfr1.SME != 0:
        sysreg.SMCR_EL2 = _SMCR_ALL


def prepare_cpu(cpu: Cpu) -> None:
    """On each CPU, before the host enters it: all of EL2 that the host lives under."""
    context = cpu.host
    context.cpu = cpu
    context.vcpu = None
    context.hcr = hcr()
    context.vttbr = stage2.vttbr(HOST)
    context.vmpidr = sysreg.MPIDR_EL1
    context.cptr = cptr()
    context.mdcr = mdcr()
    cpu.mdcr = counters.mdcr()
    sysreg.CPTR_EL2 = context.cptr
    isb()
    _grant_features(cpu)
    if ID_AA64PFR0_EL1(sysreg.ID_AA64PFR0_EL1).SVE != 0:
        simd.create_host(context)
    speculation.survey()
    sysreg.VTCR_EL2 = stage2.vtcr()
    sysreg.VTTBR_EL2 = context.vttbr
    sysreg.VPIDR_EL2 = sysreg.MIDR_EL1
    sysreg.VMPIDR_EL2 = context.vmpidr
    sysreg.MDCR_EL2 = context.mdcr
    sysreg.HSTR_EL2 = 0
    sysreg.CNTHCTL_EL2 = CNTHCTL_EL2(EL1PCTEN=1, EL1PCEN=1)
    sysreg.CNTVOFF_EL2 = 0
    sysreg.CNTHP_CTL_EL2 = 0
    sysreg.SCTLR_EL1 = SCTLR_EL1_RES1
    sysreg.HCR_EL2 = context.hcr
    isb()
    tlbi("alle1")
    dsb("nsh")
    isb()


def enter(cpu: Cpu, entry: Pa, argument: u64) -> Context:
    """The host's state at its entry on a CPU: EL1h, everything masked, MMU off, x0 the argument."""
    context = cpu.host
    for i in range(len(context.x)):
        context.x[i] = 0
    context.x[0] = argument
    sysreg.ELR_EL2 = u64(entry)
    sysreg.SPSR_EL2 = _START
    return context


def sync(context: Context) -> Context:
    """A synchronous exception from the host."""
    esr = ESR_EL2(sysreg.ESR_EL2)
    match ExceptionClass(esr.EC):
        case ExceptionClass.HVC64:
            return _hypercall(context, esr)
        case ExceptionClass.DATA_ABORT_LOWER:
            return _data_abort(context, esr)
        case ExceptionClass.SMC64:
            advance.skip()
            if esr.ISS & 0xFFFF != 0:
                context.x[0] = NOT_SUPPORTED
                return context
            return power.call(context)
        case ExceptionClass.INSTRUCTION_ABORT_LOWER:
            return _foreign(context, esr)
        case ExceptionClass.WFX:
            advance.skip()
            return resident.wait(context)
        case ExceptionClass.SYSREG:
            return host_gic.access(context, SysRegTrap(esr.ISS))
        case _:
            inject.undefined()
            return context


@inline
def _hypercall(context: Context, esr: ESR_EL2) -> Context:
    """HVC #0: a gzvm call by either column of its number, or what an SMC would be."""
    if esr.ISS & 0xFFFF != 0:
        context.x[0] = NOT_SUPPORTED
        return context
    function = u64(u32(context.x[0])) & ~u64(SMC64_BIT)  # the rest of x0 is core/work.py's
    if function >= SMC32_BASE and function < SMC32_BASE + CALL_COUNT:
        return calls.hypercall(context, False)
    return power.call(context)


@inline
def _data_abort(context: Context, esr: ESR_EL2) -> Context:
    """A plain store to the doorbell's word is a call; anything else touched what is not the host's."""
    abort = DataAbort(esr.ISS)
    if abort.ISV != 0 and abort.WnR != 0 and abort.S1PTW == 0:
        page = HPFAR_EL2(sysreg.HPFAR_EL2).FIPA << 12
        offset = sysreg.FAR_EL2 & (doorbell.DOORBELL_SIZE - 1)
        if Pa(page) == machine.doorbell and offset == doorbell.STORE_OFFSET and abort.SAS >= 2:
            return calls.hypercall(context, True)
    return _foreign(context, esr)


@cold
def _foreign(context: Context, esr: ESR_EL2) -> Context:
    """Not the host's: its exception level that tried gets a synchronous external abort, as from a bus.

    Unless it was between break and make, or came back meanwhile: then it tries again.
    """
    dying.stand_by()
    translation = DataAbort(esr.ISS).DFSC & FAULT_TYPE_MASK == FaultStatus.TRANSLATION
    if translation and host_memory.has(Ipa(HPFAR_EL2(sysreg.HPFAR_EL2).FIPA << 12)):
        return context
    far = sysreg.FAR_EL2
    inject.fault(esr, far, FaultStatus.ALIGNMENT if _for_a_process(esr, far) else FaultStatus.EXTERNAL)
    return context


def _for_a_process(esr: ESR_EL2, far: u64) -> bool:
    """A kernel's access to a protected VM's page through the lower range of addresses, a process's (D8.1.2).

    Linux dies of an external abort there, and answers other faults of such an access by failing the system call.
    """
    if esr.EC != ExceptionClass.DATA_ABORT_LOWER or DataAbort(esr.ISS).S1PTW != 0 or far & _UPPER_RANGE != 0:
        return False
    if inject.from_el0(SPSR(sysreg.SPSR_EL2)):
        return False
    return pages.entry(Pa(HPFAR_EL2(sysreg.HPFAR_EL2).FIPA << 12)).STATE == pages.State.PRIVATE
