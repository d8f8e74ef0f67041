# SPDX-License-Identifier: Apache-2.0
"""The end of the core: what happened, the registers, who called whom; then all CPUs stop, the machine goes
off.

Other CPUs are stopped by taking the host's stage 2 away: their next access below EL2 traps, and `stand_by`
holds them.
"""

from __future__ import annotations

from typing import NoReturn

import gz.core.coherency as coherency
import gz.core.console as console
import gz.core.host_memory as host_memory
import gz.core.image as image
import gz.core.memory as memory
import gz.core.names as names
import gz.core.power as power
import gz.core.stage2 as stage2
import gz.core.trace as trace
from gz.arm64.descriptors import GIGABYTE_SHIFT
from gz.arm64.insn import dsb, isb, tlbi, wfi
from gz.arm64.registers import MPIDR_AFFINITY
from gz.arm64.syndrome import ESR_EL2, FAULT_TYPE_MASK, DataAbort, ExceptionClass, FaultStatus
from gz.arm64.sysreg import sysreg
from gz.bits import Pa, ReadOnly, Struct, Va, storage, u8, u32, u64
from gz.core.cpu import this_cpu
from gz.core.tree import text
from gz.core.vectors import Fault
from gz.metal import address, cold, export, fetch_add, hook, inline, load_acquire, log, peek64, poke64
from gz.metal.layout import STACK_COUNT, STACK_STRIDE

_FRAMES_MAX = 32
_RETURN_ADDRESS = 8
_CALL = 4  # a return address points behind the call
_CALLED = text("  called from 0x")
_PC = text("  PC 0x")
_X30 = text("  x30 0x")
_SPACE = text(" ")
_PLUS = text("+0x")
_END = text("\n")


class Panic(Struct):
    begun: u32  # CPUs that came here
    armed: u32  # the host runs: other CPUs have to be stopped


state = storage(Panic)


def arm() -> None:
    """From now on a panic has to stop other CPUs and may look at EL2's registers."""
    state.armed = 1


@inline
def stand_by() -> None:
    """Stay here if another CPU panics."""
    if load_acquire(state.begun) != 0:
        _halt()


@cold
def _halt() -> NoReturn:
    while True:
        wfi()


@hook("panic")
@cold
def stop() -> NoReturn:
    """After the text of a panic in Python."""
    _only_one()
    _stop_others()
    log(f"core panic: on CPU {sysreg.MPIDR_EL1 & MPIDR_AFFINITY:#x}")
    if state.armed != 0:
        log(f"  below EL2: PC {sysreg.ELR_EL2:#x}  PSTATE {sysreg.SPSR_EL2:#x}")
    _backtrace(image.frame_pointer())
    _trace()
    power.off()


def _place(what: ReadOnly[u8], pc: u64) -> None:
    """A line with an address of code and the function it is in."""
    console.write(address(what), len(what))
    console.write_number(pc, 16, False)
    name, length, offset = names.find(pc)
    if name != Va(0):
        console.write(address(_SPACE), len(_SPACE))
        console.write(name, length)
        console.write(address(_PLUS), len(_PLUS))
        console.write_number(offset, 16, False)
    console.write(address(_END), len(_END))


@export
@cold
def unexpected(fault: Fault) -> NoReturn:
    """An exception of the core itself, from the vectors."""
    _only_one()
    _stop_others()
    esr = ESR_EL2(sysreg.ESR_EL2)
    log(f"core panic: exception {fault.kind:d} on CPU {sysreg.MPIDR_EL1 & MPIDR_AFFINITY:#x}")
    log(f"  ESR {esr:#x} (class {esr.EC:#x}, syndrome {esr.ISS:#x})")
    _explain(esr)
    _place(_PC, sysreg.ELR_EL2)
    log(f"  FAR {sysreg.FAR_EL2:#x}  SP {fault.sp:#x}  PSTATE {sysreg.SPSR_EL2:#x}")
    for i in range(0, 30, 3):
        a, b, c = fault.x[i], fault.x[i + 1], fault.x[i + 2]
        log(f"  x{i} {a:#x}  x{i + 1} {b:#x}  x{i + 2} {c:#x}")
    _place(_X30, fault.x[30])  # of a function without a frame it is the caller
    _backtrace(Va(fault.x[29]))
    _trace()
    power.off()


def _trace() -> None:
    if state.armed != 0 and sysreg.TPIDR_EL2 != 0:
        trace.show(this_cpu())


def _explain(esr: ESR_EL2) -> None:
    match ExceptionClass(esr.EC):
        case ExceptionClass.DATA_ABORT_SAME:
            if DataAbort(esr.ISS).WnR != 0:
                log("  data abort on a store")
            else:
                log("  data abort on a load")
        case ExceptionClass.INSTRUCTION_ABORT_SAME:
            log("  instruction abort")
        case ExceptionClass.BRK64:
            log("  breakpoint instruction: code that cannot be reached")
            return
        case _:
            return
    status = DataAbort(esr.ISS).DFSC
    match FaultStatus(status & FAULT_TYPE_MASK):
        case FaultStatus.TRANSLATION:
            log(f"  not mapped, level {status & 3:d}")
        case FaultStatus.PERMISSION:
            log(f"  not permitted, level {status & 3:d}")
        case FaultStatus.EXTERNAL:
            log("  external abort")
        case _:
            if status == FaultStatus.ALIGNMENT:
                log("  not aligned")


def _only_one() -> None:
    """A panic within a panic, or on a second CPU, prints no more."""
    if fetch_add(state.begun, 1) != 0:
        _halt()


def _stop_others() -> None:
    root = host_memory.HOST.root
    if state.armed == 0 or root == Pa(0):
        return
    for i in range(stage2.limit() >> GIGABYTE_SHIFT):
        poke64(memory.va(root) + 8 * i, 0)
    dsb("ishst")
    tlbi("alle1is")
    dsb("ish")
    coherency.settle()
    isb()


def _backtrace(frame: Va) -> None:
    """AArch64 frame records: the caller's record, then the return address; as far as they lie on a stack."""
    low = image.stacks_start()
    high = low + STACK_COUNT * STACK_STRIDE
    at = frame
    for _ in range(_FRAMES_MAX):
        if at < low or at + 16 > high or u64(at) & 7 != 0:
            return
        caller = peek64(at + _RETURN_ADDRESS)
        if caller == 0:
            return
        _place(_CALLED, caller - _CALL)
        following = Va(peek64(at))
        if following <= at:
            return
        at = following
