# SPDX-License-Identifier: Apache-2.0
"""The end of the core: what happened, the registers, who called whom; then all CPUs stop, the machine goes
off.

Other CPUs are stopped by taking the host's stage 2 away: their next access below EL2 traps, and `stand_by`
holds them.
"""

from __future__ import annotations

from typing import NoReturn

import gz.core.host as host
import gz.core.image as image
import gz.core.memory as memory
import gz.core.power as power
import gz.core.stage2 as stage2
from gz.arm64.descriptors import GIGABYTE_SHIFT
from gz.arm64.insn import dsb, isb, tlbi, wfi
from gz.arm64.registers import MPIDR_AFFINITY
from gz.arm64.syndrome import ESR_EL2
from gz.arm64.sysreg import sysreg
from gz.bits import Pa, Struct, Va, storage, u32, u64
from gz.core.vectors import Fault
from gz.metal import cold, export, fetch_add, hook, inline, load_acquire, log, peek64, poke64
from gz.metal.layout import STACK_COUNT, STACK_STRIDE

_FRAMES_MAX = 32
_RETURN_ADDRESS = 8
_CALL = 4  # a return address points behind the call


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
    power.off()


@export
@cold
def unexpected(fault: Fault) -> NoReturn:
    """An exception of the core itself, from the vectors."""
    _only_one()
    _stop_others()
    esr = ESR_EL2(sysreg.ESR_EL2)
    log(f"core panic: exception {fault.kind:d} on CPU {sysreg.MPIDR_EL1 & MPIDR_AFFINITY:#x}")
    log(f"  ESR {esr:#x} (class {esr.EC:#x}, syndrome {esr.ISS:#x})")
    log(f"  PC  {sysreg.ELR_EL2:#x}  FAR {sysreg.FAR_EL2:#x}  SP {fault.sp:#x}  PSTATE {sysreg.SPSR_EL2:#x}")
    for i in range(0, 30, 3):
        a, b, c = fault.x[i], fault.x[i + 1], fault.x[i + 2]
        log(f"  x{i} {a:#x}  x{i + 1} {b:#x}  x{i + 2} {c:#x}")
    log(f"  x30 {fault.x[30]:#x}")
    _backtrace(Va(fault.x[29]))
    power.off()


def _only_one() -> None:
    """A panic within a panic, or on a second CPU, prints no more."""
    if fetch_add(state.begun, 1) != 0:
        _halt()


def _stop_others() -> None:
    root = host.HOST.root
    if state.armed == 0 or root == Pa(0):
        return
    for i in range(stage2.limit() >> GIGABYTE_SHIFT):
        poke64(memory.va(root) + 8 * i, 0)
    dsb("ishst")
    tlbi("alle1is")
    dsb("ish")
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
        log(f"  called from {caller - _CALL:#x}")
        following = Va(peek64(at))
        if following <= at:
            return
        at = following
