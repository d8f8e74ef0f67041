# SPDX-License-Identifier: Apache-2.0
"""Breakpoints, watchpoints and single-step at EL1: one line per check.

What is stepped through traps where a hypervisor emulates: each instruction has to count as one step.
"""

from __future__ import annotations

from collections.abc import Callable

from gz.arm64.insn import isb, read, write
from gz.arm64.psci import Psci
from gz.arm64.registers import DBGBCR, DBGWCR, MDSCR_EL1, OSLSR_EL1, SPSR
from gz.arm64.syndrome import ESR_EL2, ExceptionClass
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL, TimerInterrupt
from gz.bits import Array, Struct, Va, array, function_table, storage, u32, u64
from gz.metal import address, assembly, export, extern, log, peek8, peek64, poke64, unroll
from gz.vmm.maps import VIRT
from payloads import cores, exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.checks import PASS, verdict
from payloads.comparators import BREAKPOINTS, WATCHPOINTS, count, enable, set_breakpoint, set_watchpoint
from payloads.exceptions import STEPS
from payloads.gic_interface import CONTROL, FRAMES, distributor, find, open_interface, private
from payloads.slot import run, slot_address

_NOP = 0xD503_201F
_MASKED = SPSR(A=1, I=1, F=1)  # debug exceptions are not
_ALL = SPSR(D=1, A=1, I=1, F=1)
_ON = MDSCR_EL1(KDE=1, MDE=1)
_EXECUTED = DBGBCR(E=1, PMC=1, BAS=15)
_LOADED = DBGWCR(E=1, PAC=1, LSC=1, BAS=0xFF)
_STORED = DBGWCR(E=1, PAC=1, LSC=2, BAS=0xFF)
_STEPS = 14
_ALARM = 5000  # of a second: 200 µs, longer than all the steps before
_WORD = 0x1234_5678_9ABC_DEF0

assembly(
    f"""
    .section .text.stepped, "ax"
    .global stepped
    .type stepped, %function
stepped:
    mov x4, x0
    mov x5, x1
    msr daifclr, #8
    mrs x1, id_aa64pfr0_el1
    ldr w1, [x4]
    str w1, [x4]
    ldr w1, [x5]
    str w1, [x5]
    mov x0, #{Psci.VERSION >> 16:#x}
    lsl x0, x0, #16
    hvc #0
    mrs x1, oslsr_el1
    wfi
    dc cisw, xzr
    mrs x1, cntp_ctl_el0
    add x0, x0, #0
    msr daifset, #8
    ret

    .global stepped_address
    .type stepped_address, %function
stepped_address:
    adr x0, stepped
    ret
"""
)


@extern
def stepped(device: u64, emulated: u64) -> u64: ...


@extern
def stepped_address() -> u64: ...


class Words(Struct, align=16):
    word: Array[u64] = array(3)


WORDS = storage(Words)


def exception_class() -> u64:
    return ESR_EL2(exceptions.taken()).EC


def breaks() -> bool:
    """Does running the slot's instruction end in a breakpoint exception?"""
    _, esr = run(_NOP, 0)
    return ESR_EL2(esr).EC == ExceptionClass.BREAKPOINT_SAME


def watched(at: Va, store: bool) -> bool:
    if store:
        poke64(at, _WORD)
    else:
        _ = peek64(at)
    return exception_class() == ExceptionClass.WATCHPOINT_SAME and exceptions.EXPECTED.far == u64(at)


def cleared() -> u32:
    """Nothing of others is in them."""
    breakpoints, watchpoints = count()
    clear = True
    for n, _, control in unroll(BREAKPOINTS):
        if n < breakpoints:
            clear = clear and DBGBCR(read(control)).E == 0
    for n, _, control in unroll(WATCHPOINTS):
        if n < watchpoints:
            clear = clear and DBGWCR(read(control)).E == 0
    return verdict(clear)


def kept() -> u32:
    breakpoints, watchpoints = count()
    right = True
    for n, value, control in unroll(BREAKPOINTS):
        if n < breakpoints:
            write(value, 0x1000 * (n + 1))
            write(control, DBGBCR(PMC=1, BAS=15))
    for n, value, control in unroll(WATCHPOINTS):
        if n < watchpoints:
            write(value, 0x2000 * (n + 1))
            write(control, DBGWCR(PAC=1, LSC=3, BAS=0xFF))
    isb()
    for n, value, control in unroll(BREAKPOINTS):
        if n < breakpoints:
            right = right and read(value) == 0x1000 * (n + 1) and read(control) == DBGBCR(PMC=1, BAS=15)
            write(control, 0)
    for n, value, control in unroll(WATCHPOINTS):
        if n < watchpoints:
            right = right and read(value) == 0x2000 * (n + 1)
            right = right and read(control) == DBGWCR(PAC=1, LSC=3, BAS=0xFF)
            write(control, 0)
    return verdict(right)


def locked() -> u32:
    """Behind the OS lock there are no debug exceptions (DDI 0487, D2.5)."""
    enable(_ON)
    set_breakpoint(0, slot_address(), _EXECUTED)
    sysreg.OSLAR_EL1 = 1
    isb()
    shut = OSLSR_EL1(sysreg.OSLSR_EL1).OSLK == 1 and not breaks()
    sysreg.OSLAR_EL1 = 0
    isb()
    open = OSLSR_EL1(sysreg.OSLSR_EL1).OSLK == 0 and breaks()
    set_breakpoint(0, slot_address(), 0)
    return verdict(shut and open)


def breakpoints_hit() -> u32:
    breakpoints, _ = count()
    hit = True
    for n in range(breakpoints):
        set_breakpoint(n, slot_address(), _EXECUTED)
        hit = hit and breaks()
        set_breakpoint(n, slot_address(), 0)
    return verdict(hit)


def breakpoints_missed() -> u32:
    breakpoints, _ = count()
    hit = False
    for n in range(breakpoints):
        set_breakpoint(n, slot_address() + 64, _EXECUTED)
        hit = hit or breaks()
        set_breakpoint(n, slot_address(), 0)
        hit = hit or breaks()
    return verdict(not hit)


def masked() -> u32:
    """PSTATE.D, KDE and MDE."""
    set_breakpoint(0, slot_address(), _EXECUTED)
    sysreg.DAIF = _ALL
    hit = breaks()
    sysreg.DAIF = _MASKED
    enable(MDSCR_EL1(MDE=1))
    hit = hit or breaks()
    enable(MDSCR_EL1(KDE=1))
    hit = hit or breaks()
    enable(_ON)
    again = breaks()
    set_breakpoint(0, slot_address(), 0)
    return verdict(again and not hit)


def watchpoints_hit() -> u32:
    _, watchpoints = count()
    at = address(WORDS.word[0])
    hit = True
    for n in range(watchpoints):
        set_watchpoint(n, at, _LOADED)
        hit = hit and watched(at, False)
        set_watchpoint(n, at, _STORED)
        hit = hit and watched(at, True)
        set_watchpoint(n, at, 0)
    return verdict(hit)


def watchpoints_missed() -> u32:
    _, watchpoints = count()
    at = address(WORDS.word[0])
    hit = False
    for n in range(watchpoints):
        set_watchpoint(n, at, _LOADED)
        hit = hit or watched(at, True) or watched(address(WORDS.word[1]), False)
        set_watchpoint(n, at, _STORED)
        hit = hit or watched(at, False) or watched(address(WORDS.word[1]), True)
        set_watchpoint(n, at, 0)
        hit = hit or watched(at, False) or watched(at, True)
    return verdict(not hit)


def set_alarm() -> None:
    """The end of a WFI some time from now, by an interrupt that is masked."""
    open_interface(0)
    distributor().CTLR = CONTROL
    private(0).ISENABLER0 = 1 << TimerInterrupt.EL1_VIRTUAL
    sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0 + sysreg.CNTFRQ_EL0 // _ALARM
    sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
    isb()


def byte_masks() -> u32:
    """Each byte of the word alone, and ranges by MASK (DDI 0487, D2.10.5)."""
    _, watchpoints = count()
    at = address(WORDS.word[0])
    right = True
    for n in range(watchpoints):
        for byte in range(8):
            set_watchpoint(n, at, DBGWCR(E=1, PAC=1, LSC=3, BAS=1 << byte))
            for other in range(8):
                _ = peek8(at + other)
                hit = exception_class() == ExceptionClass.WATCHPOINT_SAME
                right = right and hit == (other == byte)
        set_watchpoint(n, at, DBGWCR(E=1, PAC=1, LSC=3, BAS=0xFF, MASK=4))
        right = right and watched(address(WORDS.word[1]), True) and not watched(address(WORDS.word[2]), True)
        set_watchpoint(n, at, 0)
    return verdict(right)


def steps() -> u32:
    """Through instructions that a hypervisor carries out, up to the one that masks and may still be followed."""
    begin = stepped_address() + 3 * 4
    sysreg.DAIF = _ALL
    STEPS.count = 0
    set_alarm()
    enable(MDSCR_EL1(SS=1, KDE=1))
    stepped(FRAMES.distributor, VIRT.virtio)
    enable(0)
    right = STEPS.count >= _STEPS
    for i in range(_STEPS):
        right = right and STEPS.at[i] == begin + 4 * i
    return verdict(right)


def no_steps() -> u32:
    STEPS.count = 0
    set_alarm()
    stepped(FRAMES.distributor, VIRT.virtio)
    return verdict(STEPS.count == 0)


Check = Callable[[], u32]

_NAMED: tuple[tuple[str, Check], ...] = (
    ("no comparator is on", cleared),
    ("comparators keep their values", kept),
    ("OS lock", locked),
    ("breakpoints hit", breakpoints_hit),
    ("breakpoints elsewhere", breakpoints_missed),
    ("breakpoints masked", masked),
    ("watchpoints hit", watchpoints_hit),
    ("watchpoints elsewhere", watchpoints_missed),
    ("watchpoints of bytes and ranges", byte_masks),
    ("single-step", steps),
    ("no single-step", no_steps),
)
_CHECKS = function_table(Check, [check for _, check in _NAMED])


@export
def job(cpu: u64, number: u64) -> u64:
    return 0


@export
def payload(tree: Va) -> None:
    exceptions.expect()
    find(tree)
    sysreg.DAIF = _MASKED
    for i, named in unroll(tuple(enumerate(_NAMED))):
        if _CHECKS[i]() == PASS:
            log(f"PASS {named[0]}")
        else:
            log(f"FAIL {named[0]}")
