# SPDX-License-Identifier: Apache-2.0
"""Performance monitors at EL1: one line per check.

What is counted while a hypervisor works for the payload must be the payload's own.  Instructions are an event only
where the CPU has it, as under QEMU with -icount.
"""

from __future__ import annotations

from collections.abc import Callable

from gz.arm64.features import ID_AA64DFR0_EL1
from gz.arm64.gic import FRAME_SIZE, GicrSgi
from gz.arm64.insn import hvc, isb, read, write
from gz.arm64.performance_registers import PerformanceRegisters
from gz.arm64.psci import Psci
from gz.arm64.registers import PMCR_EL0, PMEVTYPER
from gz.arm64.sysreg import SysRegs, sysreg
from gz.arm64.timer import PMU_INTERRUPT
from gz.bits import Va, Window, at, function_table, u32, u64
from gz.core.monitors import EVENT_COUNTERS
from gz.metal import export, log, mmio, noinline, unroll
from gz.vmm.maps import VIRT
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.checks import PASS, SKIP, verdict
from payloads.interrupts import REDISTRIBUTOR, handled

#: Common events (DDI 0487, D13.11).
_SW_INCR, _INST_RETIRED = 0x00, 0x08
_CYCLES = 1 << 31  # the cycle counter in sets of counters
_ALL = 0xFFFF_FFFF
_ROUNDS = 64
_LITTLE = 40  # instructions of the payload's own per round, at most
_OFF = PMCR_EL0(LC=1)
_RESET = PMCR_EL0(LC=1, P=1, C=1)
_ON = PMCR_EL0(LC=1, E=1)

_EVENTS = tuple(
    (n, getattr(PerformanceRegisters, f"PMEVCNTR{n}_EL0"), getattr(PerformanceRegisters, f"PMEVTYPER{n}_EL0"))
    for n in range(EVENT_COUNTERS)
)


class VirtioMmio(Window):
    """The first device of the machine: a register that every VMM serves itself."""

    MAGIC: u32 = at(0)


def counters() -> u32:
    return u32(PMCR_EL0(sysreg.PMCR_EL0).N)


def has(event: u64) -> bool:
    return sysreg.PMCEID0_EL0 >> event & 1 != 0


def reset() -> None:
    sysreg.PMCR_EL0 = _RESET
    sysreg.PMCNTENCLR_EL0 = _ALL
    sysreg.PMOVSCLR_EL0 = _ALL
    sysreg.PMINTENCLR_EL1 = _ALL
    isb()


def control(value: u64) -> None:
    sysreg.PMCR_EL0 = value
    isb()


@noinline
def work() -> None:
    """Exits of all kinds: call, register, the core's device, the VMM's device."""
    distributor = mmio(VirtioMmio, Va(VIRT.gicd))
    device = mmio(VirtioMmio, Va(VIRT.virtio))
    for _ in range(_ROUNDS):
        hvc(Psci.VERSION)
        _ = sysreg.ID_AA64PFR0_EL1
        _ = distributor.MAGIC
        _ = device.MAGIC


def cleared() -> u32:
    """Nothing of others is in them."""
    quiet = sysreg.PMCNTENSET_EL0 | sysreg.PMINTENSET_EL1 | sysreg.PMOVSSET_EL0 | sysreg.PMUSERENR_EL0 == 0
    return verdict(quiet and PMCR_EL0(sysreg.PMCR_EL0).E == 0)


def kept() -> u32:
    reset()
    right = True
    for n, count, kind in unroll(_EVENTS):
        if n < counters():
            write(kind, 0xC0 + n)
            write(count, 0xDEAD_BEEF - n)
    isb()
    work()
    for n, count, kind in unroll(_EVENTS):
        if n < counters():
            right = right and read(kind) & 0xFFFF == 0xC0 + n and read(count) == 0xDEAD_BEEF - n
    sysreg.PMCNTENSET_EL0 = _ALL
    there = sysreg.PMCNTENCLR_EL0
    reset()
    return verdict(right and there == _CYCLES | (u64(1) << counters()) - 1)


def selected() -> u32:
    """One by PMSELR_EL0 is the one by its number."""
    sysreg.PMSELR_EL0 = 1
    isb()
    sysreg.PMXEVTYPER_EL0 = 0xEA
    sysreg.PMXEVCNTR_EL0 = 0x1234_5678
    isb()
    return verdict(sysreg.PMEVTYPER1_EL0 & 0xFFFF == 0xEA and sysreg.PMEVCNTR1_EL0 == 0x1234_5678)


def cycles_pass() -> u32:
    reset()
    sysreg.PMCCFILTR_EL0 = 0
    sysreg.PMCNTENSET_EL0 = _CYCLES
    control(_ON)
    right = True
    for _ in range(_ROUNDS):
        before = sysreg.PMCCNTR_EL0
        right = right and sysreg.PMCCNTR_EL0 > before
    work()
    control(_OFF)
    still = sysreg.PMCCNTR_EL0
    work()
    return verdict(right and sysreg.PMCCNTR_EL0 == still)


def software_increments() -> u32:
    reset()
    sysreg.PMEVTYPER0_EL0 = _SW_INCR
    sysreg.PMEVTYPER1_EL0 = _SW_INCR
    sysreg.PMEVCNTR0_EL0 = 0xFFFF_FFF0
    sysreg.PMCNTENSET_EL0 = 3
    isb()
    sysreg.PMSWINC_EL0 = 3
    isb()
    right = read(SysRegs.PMEVCNTR0_EL0) == 0xFFFF_FFF0 and read(SysRegs.PMEVCNTR1_EL0) == 0
    control(_ON)
    for _ in range(_ROUNDS):
        sysreg.PMSWINC_EL0 = 3
    isb()
    right = right and read(SysRegs.PMEVCNTR0_EL0) & _ALL == _ROUNDS - 16 and read(SysRegs.PMEVCNTR1_EL0) == _ROUNDS
    right = right and sysreg.PMOVSCLR_EL0 == 1
    return verdict(right)


def retired(filter: u64) -> u64:
    """Instructions that one of the counters finds in `work`."""
    reset()
    sysreg.PMEVTYPER0_EL0 = _INST_RETIRED | filter
    sysreg.PMCNTENSET_EL0 = 1
    control(_ON)
    work()
    control(_OFF)
    return sysreg.PMEVCNTR0_EL0


def own_instructions() -> u32:
    if not has(_INST_RETIRED):
        return SKIP
    count = retired(0)
    return verdict(4 * _ROUNDS < count and count < _LITTLE * _ROUNDS)


def not_el2() -> u32:
    """Even when EL2's are asked for."""
    if not has(_INST_RETIRED):
        return SKIP
    return verdict(retired(PMEVTYPER(NSH=1)) < retired(0) + _ROUNDS)


def filtered() -> u32:
    if not has(_INST_RETIRED):
        return SKIP
    return verdict(retired(PMEVTYPER(P=1)) == 0)


def overflow(enabled: bool) -> u64:
    """Interrupts taken by some software increments around an overflow."""
    reset()
    before = handled(0)
    sysreg.PMEVTYPER0_EL0 = _SW_INCR
    sysreg.PMEVCNTR0_EL0 = 0xFFFF_FFF0
    sysreg.PMCNTENSET_EL0 = 1
    if enabled:
        sysreg.PMINTENSET_EL1 = 1
    control(_ON)
    for _ in range(_ROUNDS):
        sysreg.PMSWINC_EL0 = 1
        isb()
    work()
    return handled(0) - before


def interrupted() -> u32:
    once = overflow(True) == 1
    return verdict(once and overflow(True) == 1)


def not_interrupted() -> u32:
    quiet = overflow(False) == 0
    reset()
    return verdict(quiet)


Check = Callable[[], u32]

_NAMED: tuple[tuple[str, Check], ...] = (
    ("nothing counts", cleared),
    ("counters keep their values", kept),
    ("selection", selected),
    ("cycle counter", cycles_pass),
    ("software increments", software_increments),
    ("own instructions", own_instructions),
    ("nothing of EL2", not_el2),
    ("filter", filtered),
    ("overflow interrupt", interrupted),
    ("no overflow interrupt", not_interrupted),
)
_CHECKS = function_table(Check, [check for _, check in _NAMED])


def look(number: u32) -> u32:
    return _CHECKS[number]()


@export
def payload(tree: Va) -> None:
    if ID_AA64DFR0_EL1(sysreg.ID_AA64DFR0_EL1).PMUVer == 0:
        log("SKIP performance monitors")
        return
    interrupts.enable()
    mmio(GicrSgi, Va(REDISTRIBUTOR + FRAME_SIZE)).ISENABLER0 = 1 << PMU_INTERRUPT
    for i, named in unroll(tuple(enumerate(_NAMED))):
        outcome = look(i)
        if outcome == PASS:
            log(f"PASS {named[0]}")
        elif outcome == SKIP:
            log(f"SKIP {named[0]}")
        else:
            log(f"FAIL {named[0]}")
