# SPDX-License-Identifier: Apache-2.0
"""The GICv3 as checks use it: Group 1, polled with interrupts masked (IHI 0069)."""

from __future__ import annotations

import gz.core.tree as trees
from gz.arm64.gic import (
    EDGE,
    FRAME_SIZE,
    GICD_CTLR,
    GICD_TYPER,
    GICR_WAKER,
    INTERRUPTS_MAX,
    PRIVATE_INTERRUPTS,
    REDISTRIBUTOR_SIZE,
    SPURIOUS,
    Gicd,
    Gicr,
    GicrSgi,
)
from gz.arm64.gic_interface import ICC_CTLR_EL1, ICC_SGI1R_EL1, ICC_SRE
from gz.arm64.insn import dsb, isb, yield_
from gz.arm64.sysreg import sysreg
from gz.bits import Struct, Va, storage, u32, u64
from gz.core.tree import Tree, text
from gz.metal import mmio
from gz.vmm.maps import VIRT
from payloads import cores

WORD = 32  # interrupts of a register with a bit for each
ALL = 0xFFFF_FFFF
OPEN = 0xF8  # priority mask with five bits
PRIORITY = 0xA0
STEP = 8  # between two priorities, with five bits
SGI = 1
SPI = 64  # the first of those that checks use
CONTROL = GICD_CTLR(EnableGrp0=1, EnableGrp1NS=1, ARE_S=1)


class Frames(Struct):
    """Where the registers are."""

    distributor: u64
    redistributors: u64
    messages: u64


FRAMES = storage(Frames)
TREE = storage(Tree)
_TREE_ROOM = 2 << 20
_GIC = text("arm,gic-v3")
_MESSAGES = text("arm,gic-v2m-frame")
_REG = text("reg")
_CELLS = 2  # of an address, and of a size


def find(blob: Va) -> None:
    """As the tree says; without one, where the "virt" machines have it."""
    FRAMES.distributor = VIRT.gicd
    FRAMES.redistributors = VIRT.redistributors
    FRAMES.messages = VIRT.msi
    if blob == Va(0) or not trees.open(TREE, blob, _TREE_ROOM):
        return
    node = trees.root(TREE)
    depth: u32 = 0
    while node != trees.NONE:
        at, _ = trees.property(TREE, node, _REG)
        if trees.compatible(TREE, node, _GIC):
            FRAMES.distributor = trees.number(at, _CELLS)
            FRAMES.redistributors = trees.number(at + 2 * _CELLS * 4, _CELLS)
        elif trees.compatible(TREE, node, _MESSAGES):
            FRAMES.messages = trees.number(at, _CELLS)
        node, depth = trees.next_node(TREE, node, depth)


def distributor() -> Gicd:
    return mmio(Gicd, Va(FRAMES.distributor))


def redistributor(cpu: u64) -> Va:
    return Va(FRAMES.redistributors + cpu * REDISTRIBUTOR_SIZE)


def private(cpu: u64) -> GicrSgi:
    return mmio(GicrSgi, redistributor(cpu) + FRAME_SIZE)


def spi_end() -> u64:
    return min((GICD_TYPER(distributor().TYPER).ITLinesNumber + 1) * WORD, u64(INTERRUPTS_MAX))


# The CPU's own interface.


def open_interface(cpu: u64) -> None:
    """SGIs of Group 1 reach this CPU."""
    control = mmio(Gicr, redistributor(cpu))
    control.WAKER = 0
    while GICR_WAKER(control.WAKER).ChildrenAsleep == 1:
        pass
    frame = private(cpu)
    frame.ICENABLER0 = ALL
    frame.ICPENDR0 = ALL
    frame.ICACTIVER0 = ALL
    frame.IGROUPR0 = ALL
    for i in range(PRIVATE_INTERRUPTS):
        frame.IPRIORITYR[i] = PRIORITY
    frame.ISENABLER0 = 0xFFFF
    sysreg.ICC_SRE_EL1 = ICC_SRE(SRE=1, DFB=1, DIB=1)
    isb()
    sysreg.ICC_CTLR_EL1 = 0
    sysreg.ICC_BPR1_EL1 = 0
    sysreg.ICC_PMR_EL1 = OPEN
    sysreg.ICC_IGRPEN1_EL1 = 1
    isb()


def take() -> u64:
    """The interrupt that this CPU acknowledges now; SPURIOUS: none."""
    dsb("sy")
    isb()
    intid = sysreg.ICC_IAR1_EL1
    dsb("sy")
    return intid


def end(intid: u64) -> None:
    sysreg.ICC_EOIR1_EL1 = intid
    isb()


def finish(intid: u64) -> u64:
    if intid != SPURIOUS:
        end(intid)
    return intid


def deactivate(intid: u64) -> None:
    sysreg.ICC_DIR_EL1 = intid
    isb()


def take_within(microseconds: u64) -> u64:
    limit = cores.deadline(microseconds)
    while True:
        intid = take()
        if intid != SPURIOUS or cores.passed(limit):
            return intid
        yield_()


def split(on: bool) -> None:
    """EOImode: the end of an interrupt drops the priority only."""
    sysreg.ICC_CTLR_EL1 = ICC_CTLR_EL1(EOImode=1) if on else u64(0)
    isb()


def send(targets: u64) -> None:
    sysreg.ICC_SGI1R_EL1 = ICC_SGI1R_EL1(INTID=SGI, TargetList=targets)
    isb()


# SPIs.


def bit(intid: u64) -> u32:
    return u32(1) << u32(intid % WORD)


def reset_spi(intid: u64) -> None:
    """Edge-triggered, Group 1, for CPU 0, enabled."""
    gicd = distributor()
    word = intid // WORD
    gicd.ICENABLER[word] = bit(intid)
    gicd.ICACTIVER[word] = bit(intid)
    gicd.IGROUPR[word] = gicd.IGROUPR[word] | bit(intid)
    shift = u32(intid % 16) * 2
    gicd.ICFGR[intid // 16] = gicd.ICFGR[intid // 16] | u32(EDGE) << shift
    gicd.ICPENDR[word] = bit(intid)
    gicd.IPRIORITYR[intid] = PRIORITY
    gicd.IROUTER[intid] = 0
    gicd.ISENABLER[word] = bit(intid)


def pend(intid: u64) -> None:
    distributor().ISPENDR[intid // WORD] = bit(intid)


def is_pending(intid: u64) -> bool:
    return distributor().ISPENDR[intid // WORD] & bit(intid) != 0


def is_active(intid: u64) -> bool:
    return distributor().ISACTIVER[intid // WORD] & bit(intid) != 0


def reset_block(count: u64) -> None:
    for i in range(count):
        reset_spi(SPI + i)
