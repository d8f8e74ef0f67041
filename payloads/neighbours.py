# SPDX-License-Identifier: Apache-2.0
"""Two guests and their host, in one image, all with breakpoints, watchpoints and counters of their own (C4).

Each guest looks for what others left, sets its own, and lets the others run in between; the host's comparators are on
addresses that the guests use.  Nothing may change, fire or be counted in another's context.
"""

from __future__ import annotations

from gz.abi.exits import ExceptionCode, ExitReason
from gz.abi.run import PAGE_SIZE, RunPage
from gz.arm64.insn import isb, read
from gz.arm64.registers import DBGBCR, DBGWCR, MDSCR_EL1, PMCR_EL0, SPSR
from gz.arm64.syndrome import ESR_EL2, ExceptionClass
from gz.arm64.sysreg import sysreg
from gz.bits import Struct, Va, Window, at, storage, u8, u32, u64
from gz.metal import address, export, log, mmio, noinline, panic, peek64, unroll
from gz.vmm.maps import VIRT
from payloads import exceptions, interrupts, machines, start  # noqa: F401 - parts of every payload
from payloads.comparators import BREAKPOINTS, WATCHPOINTS, count, enable, set_breakpoint, set_watchpoint
from payloads.console import put
from payloads.slot import run, slot_address

_NOP = 0xD503_201F
_MASKED = SPSR(A=1, I=1, F=1)
_ON = MDSCR_EL1(KDE=1, MDE=1)
_EXECUTED = DBGBCR(E=1, PMC=1, BAS=15)
_TOUCHED = DBGWCR(E=1, PAC=1, LSC=3, BAS=0xFF)
_INST_RETIRED = 0x08
_CYCLES = 1 << 31
_ROUNDS = 20
_SPIN = 10_000  # turns of a guest's loop between two exits
_LOOP = 4  # instructions of one turn, at most
_CALL = 200  # instructions of the host's around one RUN, at most
_KEPT = 0xCAFE


class Desk(Window):
    """The host's device: who the guest is, a word to give way by, and which addresses the host may be curious about."""

    NUMBER: u32 = at(0)
    YIELD: u32 = at(4)
    SLOT: u64 = at(8)
    WORD: u64 = at(16)


_SLOT = VIRT.virtio + Desk.offset("SLOT")
_WORD = VIRT.virtio + Desk.offset("WORD")


class Faults(Struct):
    fired: u32  # exceptions that are another's
    missed: u32  # own that did not come
    changed: u32  # registers that are not as they were left
    counted: u32  # times that there were instructions of others among the counted


WORD = storage(u64, 2)
FAULTS = storage(Faults)


def judge(came: bool, wanted: bool) -> None:
    if came and not wanted:
        FAULTS.fired += 1
    elif wanted and not came:
        FAULTS.missed += 1


def expect(breakpoint: bool, watchpoint: bool) -> None:
    """Of the slot's instruction, and of a load of WORD[0]."""
    _, esr = run(_NOP, 0)
    judge(ESR_EL2(esr).EC == ExceptionClass.BREAKPOINT_SAME, breakpoint)
    _ = peek64(address(WORD[0]))
    judge(ESR_EL2(exceptions.taken()).EC == ExceptionClass.WATCHPOINT_SAME, watchpoint)


# A guest: number 0 has a breakpoint, number 1 a watchpoint, on the same addresses.


@noinline
def spin() -> None:
    for i in range(_SPIN):
        WORD[1] = i


def look_for_others() -> None:
    for _, value, control in unroll(BREAKPOINTS + WATCHPOINTS):
        if (read(value) | read(control)) != 0:
            FAULTS.changed += 1
    counters = sysreg.PMCNTENSET_EL0 | sysreg.PMINTENSET_EL1 | sysreg.PMOVSSET_EL0 | sysreg.PMUSERENR_EL0
    counters |= sysreg.PMEVCNTR0_EL0 | sysreg.PMEVTYPER0_EL0 | sysreg.PMCCNTR_EL0 | PMCR_EL0(sysreg.PMCR_EL0).E
    if counters | sysreg.MDSCR_EL1 != 0:
        FAULTS.changed += 1


def guest() -> None:
    desk = mmio(Desk, Va(VIRT.virtio))
    number = desk.NUMBER
    desk.SLOT = u64(slot_address())
    desk.WORD = u64(address(WORD[0]))
    look_for_others()
    sysreg.OSLAR_EL1 = 0
    enable(_ON)
    expect(False, False)
    if number == 0:
        set_breakpoint(0, slot_address(), _EXECUTED)
    else:
        set_watchpoint(1, address(WORD[0]), _TOUCHED)
    sysreg.PMEVTYPER1_EL0 = _INST_RETIRED
    sysreg.PMEVCNTR2_EL0 = 0x1000 + number
    sysreg.PMCNTENSET_EL0 = 2 | _CYCLES
    sysreg.PMCR_EL0 = PMCR_EL0(LC=1, E=1, P=0, C=1)
    isb()
    before = sysreg.PMEVCNTR1_EL0
    for _ in range(_ROUNDS):
        spin()
        desk.YIELD = number
        expect(number == 0, number == 1)
        if sysreg.PMEVCNTR2_EL0 != 0x1000 + number or sysreg.PMCNTENSET_EL0 != 2 | _CYCLES:
            FAULTS.changed += 1
    counted = sysreg.PMEVCNTR1_EL0 - before
    if counted < _ROUNDS * _SPIN or counted > _ROUNDS * _SPIN * _LOOP:
        FAULTS.counted += 1
    log(
        f"guest {number}: {FAULTS.fired} fired, {FAULTS.missed} missed, {FAULTS.changed} changed, "
        f"{FAULTS.counted} counted"
    )


# The host.


def serve(machine: u32) -> bool:
    """To the guest's next exit for the VMM but those for the console; False: that was its end."""
    while True:
        before = sysreg.PMEVCNTR1_EL0
        reason = machines.run(machine, 0)
        if sysreg.PMEVCNTR1_EL0 - before > _CALL:
            FAULTS.counted += 1
        page = machines.run_page(machine, 0)
        if reason == ExitReason.SYSTEM_EVENT:
            return False
        if reason == ExitReason.MMIO:
            access(machine, page)
            if page.mmio.phys_addr & ~(PAGE_SIZE - 1) != VIRT.uart:
                return True
        elif reason == ExitReason.EXCEPTION and page.exception.exception == ExceptionCode.PAGE_FAULT:
            machines.supply(machine, 0)
        elif reason != ExitReason.IRQ and reason != ExitReason.GZ:
            panic(f"RUN came back with {reason:#x}")


def access(machine: u32, page: RunPage) -> None:
    breakpoints, watchpoints = count()
    if page.mmio.is_write == 0:
        page.mmio.data = machine if page.mmio.phys_addr == VIRT.virtio else 0
    elif page.mmio.phys_addr == VIRT.uart:
        put(u8(page.mmio.data))
    elif page.mmio.phys_addr == _SLOT:
        for n in range(1, breakpoints):
            set_breakpoint(n, Va(page.mmio.data), _EXECUTED)
    elif page.mmio.phys_addr == _WORD:
        for n in range(1, watchpoints):
            set_watchpoint(n, Va(page.mmio.data), _TOUCHED)


def set_own() -> None:
    sysreg.OSLAR_EL1 = 0
    enable(_ON)
    set_breakpoint(0, slot_address(), _EXECUTED)
    set_watchpoint(0, address(WORD[0]), _TOUCHED)
    sysreg.PMEVTYPER1_EL0 = _INST_RETIRED
    sysreg.PMEVCNTR3_EL0 = _KEPT
    sysreg.PMCNTENSET_EL0 = 2
    sysreg.PMCR_EL0 = PMCR_EL0(LC=1, E=1)
    isb()


def check_own() -> None:
    expect(True, True)
    if sysreg.PMEVCNTR3_EL0 != _KEPT or sysreg.PMCNTENSET_EL0 != 2 or PMCR_EL0(sysreg.PMCR_EL0).E == 0:
        FAULTS.changed += 1
    if sysreg.DBGBVR0_EL1 != u64(slot_address()) or sysreg.DBGWVR0_EL1 != u64(address(WORD[0])):
        FAULTS.changed += 1


def host() -> None:
    set_own()
    machines.create(0, 0)
    machines.create(1, 0)
    first = True
    second = True
    while first or second:
        first = first and serve(0)
        check_own()
        second = second and serve(1)
        check_own()
    machines.destroy(0)
    machines.destroy(1)
    log(f"host: {FAULTS.fired} fired, {FAULTS.missed} missed, {FAULTS.changed} changed, {FAULTS.counted} counted")


@export
def payload(tree: Va) -> None:
    """Without a device tree it is a guest."""
    exceptions.expect()
    sysreg.DAIF = _MASKED
    if tree == 0:
        guest()
    else:
        machines.open_tree(tree)
        host()
