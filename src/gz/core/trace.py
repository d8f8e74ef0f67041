# SPDX-License-Identifier: Apache-2.0
"""What the core did last on each CPU: a ring of records, read from outside (`gz board trace`, gdb's `gz-trace`) and
printed by a panic.

Nothing is switched on or off. Traps that the guest leaves and comes back from at once are not recorded; what changes
worlds, memory or interrupts is.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from gz.arm64.sysreg import sysreg
from gz.bits import Array, Struct, Va, array, enumeration, u32, u64
from gz.core.context import Context
from gz.metal import cold, inline, log, view

if TYPE_CHECKING:
    from gz.core.cpu import Cpu
    from gz.core.vcpu import Vcpu

RECORD_COUNT = 128
_SHOWN = 12  # by a panic


@enumeration(u32)
class Event(IntEnum):
    """What happened; the record's `a` and `b`."""

    ENTER = 1  # RUN goes to the guest: its PC, PSTATE
    LEAVE = 2  # back to the host: the guest's PC, ExitReason
    INJECT = 3  # an interrupt into a list register: INTID, the register
    EXCEPTION = 4  # taken to EL1 in the hardware's place: ESR_EL1, the PC it is taken from
    CALL = 5  # of the host, but RUN: x0, x1
    RETURN = 6  # its end: x0, x1
    MAP = 7  # IPA, bytes
    UNMAP = 8  # IPA, bytes
    AGAIN = 9  # a call of the host's is done in part, the rest when it makes it again: x0, x1


class Record(Struct):
    """`time` is CNTPCT_EL0. `subject`: VM id << 16 | vCPU index; 0 is the host."""

    time: u64
    event: u32
    subject: u32
    a: u64
    b: u64


class Ring(Struct, align=64):
    """Record n of all that were ever written is at n % RECORD_COUNT."""

    records: Array[Record] = array(RECORD_COUNT)
    count: u64  # of all records; the one that is being written is not counted yet


@inline
def record(cpu: Cpu, event: Event, subject: u32, a: u64, b: u64) -> None:
    ring = cpu.trace
    row = ring.records[ring.count % RECORD_COUNT]
    row.time = sysreg.CNTPCT_EL0
    row.event = event
    row.subject = subject
    row.a = a
    row.b = b
    ring.count += 1


@inline
def of(vcpu: Vcpu) -> u32:
    """A vCPU as a subject."""
    return vcpu.vm.vmid << 16 | vcpu.index


@cold
def record_here(event: Event, subject: u32, a: u64, b: u64) -> None:
    """Where only TPIDR_EL2 says which CPU this is. Before a CPU has a world below EL2 nothing is recorded."""
    below = sysreg.TPIDR_EL2
    if below != 0:
        record(view(Context, Va(below)).cpu, event, subject, a, b)


@cold
def record_exception(syndrome: u64, pc: u64) -> None:
    """Of the world below."""
    below = sysreg.TPIDR_EL2
    if below != 0:
        context = view(Context, Va(below))
        vcpu = context.vcpu
        subject: u32 = 0
        if vcpu is not None:
            subject = of(vcpu)
        record(context.cpu, Event.EXCEPTION, subject, syndrome, pc)


@cold
def show(cpu: Cpu) -> None:
    """The last records, for a panic."""
    ring = cpu.trace
    count = ring.count
    if count != 0:
        log("  before that, at CNTPCT_EL0:")
    for number in range(count - min(count, _SHOWN), count):
        row = ring.records[number % RECORD_COUNT]
        time, a, b = row.time, row.a, row.b
        vm, vcpu = row.subject >> 16, row.subject & 0xFFFF
        match Event(row.event):
            case Event.ENTER:
                log(f"  {time} enter vCPU {vcpu} of VM {vm}: PC {a:#x}  PSTATE {b:#x}")
            case Event.LEAVE:
                log(f"  {time} leave vCPU {vcpu} of VM {vm}: PC {a:#x}  exit {b:#x}")
            case Event.INJECT:
                log(f"  {time} inject interrupt {a} into vCPU {vcpu} of VM {vm}: {b:#x}")
            case Event.EXCEPTION:
                log(f"  {time} exception to vCPU {vcpu} of VM {vm}: ESR {a:#x}  PC {b:#x}")
            case Event.CALL:
                log(f"  {time} call {a:#x} {b:#x}")
            case Event.RETURN:
                log(f"  {time} return {a:#x} {b:#x}")
            case Event.AGAIN:
                log(f"  {time} again {a:#x} {b:#x}")
            case Event.MAP:
                log(f"  {time} map VM {vm}: IPA {a:#x}  {b:#x} bytes")
            case Event.UNMAP:
                log(f"  {time} unmap VM {vm}: IPA {a:#x}  {b:#x} bytes")
            case _:
                pass
