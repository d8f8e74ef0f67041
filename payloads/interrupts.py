# SPDX-License-Identifier: Apache-2.0
"""The GICv3 of the "virt" machines: one CPU, Group 1."""

from __future__ import annotations

from gz.arm64.gic import FRAME_SIZE, GICD_CTLR, GICR_WAKER, INTERRUPTS_MAX, Gicd, Gicr, GicrSgi
from gz.arm64.gic_interface import ICC_SRE
from gz.arm64.insn import isb
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL, TimerInterrupt
from gz.bits import Struct, Va, storage, u64
from gz.metal import export, mmio, read_once, write_once
from gz.vmm.maps import VIRT

DISTRIBUTOR = VIRT.gicd
REDISTRIBUTOR = VIRT.redistributors

SGI = 1
_PRIORITY_MASK = 0xF0
_PRIORITY = 0xA0
#: With one security state EnableGrp0, EnableGrp1, ARE; seen from the Non-secure one of two the same bits are
#: EnableGrp1, EnableGrp1A, ARE (IHI 0069, 12.9.4).
_CONTROL = GICD_CTLR(EnableGrp0=1, EnableGrp1NS=1, ARE_S=1)


class Handled(Struct):
    """Interrupts taken so far."""

    count: u64


HANDLED = storage(Handled)


def enable() -> None:
    """Take the SGI and the virtual timer; unmask."""
    sysreg.ICC_SRE_EL1 = ICC_SRE(SRE=1, DFB=1, DIB=1)
    isb()
    mmio(Gicd, Va(DISTRIBUTOR)).CTLR = _CONTROL
    redistributor = mmio(Gicr, Va(REDISTRIBUTOR))
    redistributor.WAKER = 0
    while GICR_WAKER(redistributor.WAKER).ChildrenAsleep == 1:
        pass
    private = mmio(GicrSgi, Va(REDISTRIBUTOR + FRAME_SIZE))
    private.IGROUPR0 = 0xFFFF_FFFF
    private.IPRIORITYR[SGI] = _PRIORITY
    private.IPRIORITYR[TimerInterrupt.EL1_VIRTUAL] = _PRIORITY
    private.ISENABLER0 = 1 << SGI | 1 << TimerInterrupt.EL1_VIRTUAL
    sysreg.ICC_PMR_EL1 = _PRIORITY_MASK
    sysreg.ICC_IGRPEN1_EL1 = 1
    isb()
    sysreg.DAIF = 0
    isb()


def handled() -> u64:
    return read_once(HANDLED.count)


@export
def interrupt() -> None:
    """Acknowledge, silence, end, count."""
    intid = sysreg.ICC_IAR1_EL1
    if intid >= INTERRUPTS_MAX:
        return
    if intid == TimerInterrupt.EL1_VIRTUAL:
        sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1, IMASK=1)
        isb()
    sysreg.ICC_EOIR1_EL1 = intid
    write_once(HANDLED.count, HANDLED.count + 1)
