# SPDX-License-Identifier: Apache-2.0
"""Making another CPU look at its guest's interrupts: a physical SGI that the host never sees.

SGI 15 in Group 0 arrives at EL2 as an FIQ while a guest runs (HCR_EL2.FMO); Group 0 is off at the CPU interface while
the host does (ICC_IGRPEN0_EL1), so a late one waits there.  Where Group 0 belongs to the secure world
(GICD_CTLR.DS = 0) the host's own reschedule SGI is used: the guest leaves, and for Linux one more of these is nothing.
"""

from __future__ import annotations

from gz.arm64.gic import FRAME_SIZE, GicrSgi
from gz.arm64.gic_interface import ICC_SGI1R_EL1
from gz.arm64.insn import isb
from gz.arm64.registers import MPIDR_AFFINITY, MPIDR_EL1
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import MAINTENANCE_INTERRUPT, TimerInterrupt
from gz.bits import u64
from gz.core.cpu import CPU_COUNT_MAX, CPUS, Cpu
from gz.core.platform import machine
from gz.core.vcpu import Vcpu
from gz.metal import cold, inline, load_acquire, mmio, unroll

SGI = 15
HOST_RESCHEDULE_SGI = 0  # Linux: IPI_RESCHEDULE
#: Behind every interrupt of Linux (0xA0) and before its mask (0xF0). A kick that waits with a better one hides all
#: others from the host where the GIC takes the highest pending interrupt before it looks at the group enables (QEMU).
LATE_PRIORITY = 0xE0
_PRIVATE = (MAINTENANCE_INTERRUPT, TimerInterrupt.EL2_PHYSICAL, TimerInterrupt.EL1_VIRTUAL)
_ENABLED = 1 << SGI | sum(1 << interrupt for interrupt in _PRIVATE)


@cold
def prepare(cpu: Cpu) -> None:
    """Once per CPU, after the host set up its redistributor: our SGI, the maintenance interrupt and both timers."""
    frame = mmio(GicrSgi, cpu.redistributor + FRAME_SIZE)
    frame.IGROUPR0 = frame.IGROUPR0 | _ENABLED
    if machine.group0 != 0:
        frame.IGROUPR0 = frame.IGROUPR0 & ~(1 << SGI)
        frame.IPRIORITYR[SGI] = LATE_PRIORITY
    for interrupt in unroll(_PRIVATE):
        frame.IPRIORITYR[interrupt] = frame.IPRIORITYR[HOST_RESCHEDULE_SGI]
    frame.ISENABLER0 = _ENABLED
    cpu.kick_ready = 1


def vcpu(target: Vcpu) -> None:
    """Nothing to do if it doesn't run: entering a guest looks at its interrupts anyway."""
    running = load_acquire(target.running)
    if running - 1 < CPU_COUNT_MAX:  # more: a call of the host has it for a moment
        cpu = CPUS[running - 1]
        if cpu.mpidr != sysreg.MPIDR_EL1 & MPIDR_AFFINITY:
            send(cpu)


def send(cpu: Cpu) -> None:
    mpidr = MPIDR_EL1(cpu.mpidr)
    value = ICC_SGI1R_EL1(
        Aff3=mpidr.Aff3,
        Aff2=mpidr.Aff2,
        Aff1=mpidr.Aff1,
        RS=mpidr.Aff0 >> 4,
        TargetList=u64(1) << (mpidr.Aff0 & 15),
    )
    if machine.group0 != 0:
        sysreg.ICC_SGI0R_EL1 = value.replace(INTID=SGI)
    else:
        sysreg.ICC_SGI1R_EL1 = value.replace(INTID=HOST_RESCHEDULE_SGI)
    isb()


@inline
def acknowledge() -> None:
    """One that came to this CPU, if it did."""
    intid = sysreg.ICC_IAR0_EL1
    if intid == SGI:
        sysreg.ICC_EOIR0_EL1 = intid
