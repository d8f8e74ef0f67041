# SPDX-License-Identifier: Apache-2.0
"""Making another CPU look at its guest's interrupts: a physical SGI that the host never sees.

SGI 15 in Group 0 arrives at EL2 as an FIQ while a guest runs (HCR_EL2.FMO); Group 0 is off at the CPU interface while
the host does (ICC_IGRPEN0_EL1), so a late one waits there.  Where Group 0 belongs to the secure world
(GICD_CTLR.DS = 0) the host's own reschedule SGI is used: the guest leaves, and for Linux one more of these is nothing.
"""

from __future__ import annotations

import gz.core.platform as platform
from gz.arm64.gic import GICD_CTLR, GICR_SGI
from gz.arm64.insn import isb
from gz.arm64.registers import ICC_SGI1R_EL1, MPIDR_EL1
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import PPI_HYP, PPI_VIRT
from gz.bits import u32, u64
from gz.core.cpu import CPUS, Cpu
from gz.core.vcpu import Vcpu
from gz.metal import cold, load_acquire, mmio

SGI = 15
HOST_RESCHEDULE_SGI = 0  # Linux: IPI_RESCHEDULE
PPI_MAINTENANCE = 25


@cold
def prepare(cpu: Cpu) -> None:
    """Once per CPU, after the host set up its redistributor: our SGI, the maintenance interrupt and both timers."""
    frame = mmio(GICR_SGI, cpu.redistributor + 0x10000)
    if platform.group0:
        frame.IGROUPR0 = frame.IGROUPR0 & ~(1 << SGI)
        frame.IPRIORITYR[SGI] = 0
    frame.IPRIORITYR[PPI_MAINTENANCE] = frame.IPRIORITYR[PPI_VIRT]
    frame.IPRIORITYR[PPI_HYP] = frame.IPRIORITYR[PPI_VIRT]
    frame.ISENABLER0 = (1 << SGI) | (1 << PPI_MAINTENANCE) | (1 << PPI_HYP) | (1 << PPI_VIRT)
    cpu.kick_ready = 1


def vcpu(target: Vcpu) -> None:
    """Nothing to do if it doesn't run: entering a guest looks at its interrupts anyway."""
    running = load_acquire(target.running)
    if running != 0:
        cpu = CPUS[running - 1]
        if cpu.mpidr != u64(sysreg.MPIDR_EL1) & MPIDR_EL1.AFFINITY:
            send(cpu)


def send(cpu: Cpu) -> None:
    mpidr = MPIDR_EL1(cpu.mpidr)
    value = ICC_SGI1R_EL1(
        AFF3=mpidr.AFF3, AFF2=mpidr.AFF2, AFF1=mpidr.AFF1, RS=mpidr.AFF0 >> 4, TARGETS=1 << (mpidr.AFF0 & 15)
    )
    if platform.group0:
        sysreg.ICC_SGI0R_EL1 = value.replace(INTID=SGI)
    else:
        sysreg.ICC_SGI1R_EL1 = value.replace(INTID=HOST_RESCHEDULE_SGI)
    isb()
