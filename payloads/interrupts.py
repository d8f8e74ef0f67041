# SPDX-License-Identifier: Apache-2.0
"""The GICv3 of the "virt" machines: Group 1. A CPU's index is its MPIDR_EL1.Aff0."""

from __future__ import annotations

from gz.abi.devices import REDISTRIBUTOR_SIZE
from gz.arm64.gic import FRAME_SIZE, GICD_CTLR, GICR_WAKER, INTERRUPTS_MAX, Gicd, Gicr, GicrSgi
from gz.arm64.gic_interface import ICC_SGI1R_EL1, ICC_SRE
from gz.arm64.insn import isb
from gz.arm64.registers import MPIDR_EL1
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL, PMU_INTERRUPT, TimerInterrupt
from gz.bits import Array, Struct, Va, array, storage, u64
from gz.metal import export, inline, mmio, read_once, write_once
from gz.metal.layout import STACK_COUNT
from gz.vmm.maps import VIRT

DISTRIBUTOR = VIRT.gicd
REDISTRIBUTOR = VIRT.redistributors

SGI = 1
_PRIORITY_MASK = 0xF0
_PRIORITY = 0xA0
_ALL_COUNTERS = 0xFFFF_FFFF
#: With one security state EnableGrp0, EnableGrp1, ARE; seen from the Non-secure one of two the same bits are
#: EnableGrp1, EnableGrp1A, ARE (IHI 0069, 12.9.4).
_CONTROL = GICD_CTLR(EnableGrp0=1, EnableGrp1NS=1, ARE_S=1)


class Handled(Struct):
    """Interrupts taken so far, by CPU."""

    count: Array[u64] = array(STACK_COUNT)


HANDLED = storage(Handled)


@inline
def cpu_index() -> u64:
    return MPIDR_EL1(sysreg.MPIDR_EL1).Aff0


def enable() -> None:
    """On this CPU: take the SGI and the virtual timer; unmask."""
    sysreg.ICC_SRE_EL1 = ICC_SRE(SRE=1, DFB=1, DIB=1)
    isb()
    mmio(Gicd, Va(DISTRIBUTOR)).CTLR = _CONTROL
    frames = REDISTRIBUTOR + cpu_index() * REDISTRIBUTOR_SIZE
    redistributor = mmio(Gicr, Va(frames))
    redistributor.WAKER = 0
    while GICR_WAKER(redistributor.WAKER).ChildrenAsleep == 1:
        pass
    private = mmio(GicrSgi, Va(frames + FRAME_SIZE))
    private.IGROUPR0 = 0xFFFF_FFFF
    private.IPRIORITYR[SGI] = _PRIORITY
    private.IPRIORITYR[TimerInterrupt.EL1_VIRTUAL] = _PRIORITY
    private.IPRIORITYR[PMU_INTERRUPT] = _PRIORITY
    private.ISENABLER0 = 1 << SGI | 1 << TimerInterrupt.EL1_VIRTUAL
    sysreg.ICC_PMR_EL1 = _PRIORITY_MASK
    sysreg.ICC_IGRPEN1_EL1 = 1
    isb()
    sysreg.DAIF = 0
    isb()


def send(cpu: u64) -> None:
    """The SGI to one CPU."""
    sysreg.ICC_SGI1R_EL1 = ICC_SGI1R_EL1(INTID=SGI, TargetList=u64(1) << cpu)
    isb()


@inline
def handled(cpu: u64) -> u64:
    return read_once(HANDLED.count[cpu])


@export
def interrupt() -> None:
    """Acknowledge, silence, end, count."""
    intid = sysreg.ICC_IAR1_EL1
    if intid >= INTERRUPTS_MAX:
        return
    if intid == TimerInterrupt.EL1_VIRTUAL:
        sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1, IMASK=1)
        isb()
    elif intid == PMU_INTERRUPT:
        sysreg.PMOVSCLR_EL0 = _ALL_COUNTERS
        isb()
    sysreg.ICC_EOIR1_EL1 = intid
    cpu = cpu_index()
    write_once(HANDLED.count[cpu], HANDLED.count[cpu] + 1)
