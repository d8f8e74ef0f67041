# SPDX-License-Identifier: Apache-2.0
"""Guests that ruin themselves, one after another, each on the next CPU, and their host, in one image (C9): only the
guest may fail.

Each says what it does; the host says how it ended: by an event, by giving up the CPU, or not at all, which the host's
timer tells.
"""

from __future__ import annotations

from enum import IntEnum

from gz.abi.exits import ExceptionCode, ExitReason
from gz.arm64.insn import dsb, isb, tlbi, wfi
from gz.arm64.registers import SPSR, Mode
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Va, Window, at, u8, u32, u64
from gz.metal import assembly, export, extern, log, mmio, panic
from gz.vmm.maps import VIRT
from payloads import cores, exceptions, interrupts, machines, start  # noqa: F401 - parts of every payload
from payloads.console import put
from payloads.slot import run


class Way(IntEnum):
    NO_VECTORS = 0
    TABLES_NOWHERE = 1
    TABLES_IN_A_DEVICE = 2
    ILLEGAL_RETURN = 3
    ASLEEP = 4
    BUSY = 5


_NOWHERE = 0x7000_0000  # may be executed and written, but is no memory
_UNKNOWN = 0x0000_0000  # UDF
_PATIENCE = 2  # interrupts of the host's
_TICK = 10_000  # of a second
_MASKED = SPSR(D=1, A=1, I=1, F=1)

assembly(
    """
    .section .text.ruin, "ax"
    .global return_to
    .type return_to, %function
return_to:
    msr spsr_el1, x0
    adr x0, 1f
    msr elr_el1, x0
    eret
1:  nop
    ret
"""
)


@extern
def return_to(spsr: u64) -> None: ...


class Desk(Window):
    """The host's device: in which way this time."""

    WAY: u32 = at(0)


# The guest.


def use_tables(table: u64) -> None:
    sysreg.TTBR0_EL1 = table
    isb()
    tlbi("vmalle1")
    dsb("nsh")
    isb()


def ruin(way: Way) -> None:
    match way:
        case Way.NO_VECTORS:
            sysreg.VBAR_EL1 = _NOWHERE
            isb()
            run(_UNKNOWN, 0)
        case Way.TABLES_NOWHERE:
            use_tables(_NOWHERE)
        case Way.TABLES_IN_A_DEVICE:
            use_tables(VIRT.gicd)
        case Way.ILLEGAL_RETURN:
            return_to(_MASKED.replace(M=Mode.EL2H))
        case Way.ASLEEP:
            sysreg.DAIF = _MASKED
            wfi()
        case Way.BUSY:
            sysreg.DAIF = _MASKED
            while True:
                pass


def guest() -> None:
    exceptions.expect()
    ruin(Way(mmio(Desk, Va(VIRT.virtio)).WAY))
    log("guest: still there")


# The host.


def serve(way: Way) -> None:
    """To the guest's end, or the host's."""
    patience: u32 = _PATIENCE
    while True:
        sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0 + sysreg.CNTFRQ_EL0 // _TICK
        sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
        reason = machines.run(0, 0)
        page = machines.run_page(0, 0)
        if reason == ExitReason.EXCEPTION and page.exception.exception == ExceptionCode.PAGE_FAULT:
            machines.supply(0, 0)
        elif reason == ExitReason.MMIO:
            if page.mmio.is_write == 0:
                page.mmio.data = u64(way) if page.mmio.phys_addr == VIRT.virtio else 0
            elif page.mmio.phys_addr == VIRT.uart:
                put(u8(page.mmio.data))
        elif reason == ExitReason.SYSTEM_EVENT:
            log(f"host: way {way}: event {page.system_event.type}")
            return
        elif reason == ExitReason.IRQ or reason == ExitReason.GZ:
            patience -= 1
            if patience == 0:
                log(f"host: way {way}: no end")
                return
        else:
            panic(f"RUN came back with {reason:#x}")


@export
def job(cpu: u64, number: u64) -> u64:
    interrupts.enable()
    machines.create(0, 0)
    serve(Way(u32(number)))
    machines.destroy(0)
    return 0


@export
def payload(tree: Va) -> None:
    """Without a device tree it is the guest."""
    if tree == 0:
        guest()
        return
    machines.open_tree(tree)
    count = cores.count()
    for cpu in range(1, count):
        if not cores.switch_on(cpu):
            panic("a CPU does not start\n")
    for way in range(len(Way)):
        if way % count == 0:
            job(0, way)
        elif cores.run(way % count, way) != 0:
            panic("a CPU does not come back\n")
    log("the host lives")
