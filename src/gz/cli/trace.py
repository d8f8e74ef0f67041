# SPDX-License-Identifier: Apache-2.0
"""What the core did last, decoded from its memory (core/trace.py): `gz board trace`, and gdb's `gz-trace`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

from gz.abi.calls import SMC32_BASE, SMC64_BIT, Call
from gz.abi.exits import ExitReason
from gz.arm64.syndrome import ESR_EL2, ExceptionClass
from gz.core.cpu import CPU_COUNT_MAX, Cpu
from gz.core.trace import RECORD_COUNT, Event

if TYPE_CHECKING:
    from gz.cli.board import Record as Board

STORAGE = "gz.core.cpu.CPUS"
SIZE = CPU_COUNT_MAX * Cpu.size

#: What a record's `a` and `b` are.
FIELDS = {
    Event.ENTER: ("pc", "pstate"),
    Event.LEAVE: ("pc", "exit"),
    Event.INJECT: ("intid", "register"),
    Event.EXCEPTION: ("esr", "pc"),
    Event.CALL: ("x0", "x1"),
    Event.RETURN: ("x0", "x1"),
    Event.MAP: ("ipa", "bytes"),
    Event.UNMAP: ("ipa", "bytes"),
    Event.AGAIN: ("x0", "x1"),
}

Name = TypeVar("Name", bound=IntEnum)


@dataclass(frozen=True)
class Entry:
    """`time` in ticks of CNTPCT_EL0. VM 0 is the host."""

    time: int
    cpu: int
    event: Event
    vm: int
    vcpu: int
    a: int
    b: int

    def as_json(self) -> dict[str, int | str]:
        first, second = FIELDS[self.event]
        facts: dict[str, int | str] = {"time": self.time, "cpu": self.cpu, "event": self.event.name.lower()}
        facts |= {"vm": self.vm, "vcpu": self.vcpu, first: self.a, second: self.b}
        if name := self.name():
            facts["name"] = name
        return facts

    def __str__(self) -> str:
        first, second = FIELDS[self.event]
        who = f"VM {self.vm} vCPU {self.vcpu}" if self.vm else "host"
        line = f"{self.time:>16}  CPU {self.cpu}  {self.event.name.lower():<9}  {who:<13}"
        return f"{line}  {first} {self.a:#x}  {second} {self.b:#x}  {self.name()}".rstrip()

    def name(self) -> str:
        """Of the exit, call or exception class; empty if there is none."""
        match self.event:
            case Event.LEAVE:
                return named(ExitReason, self.b)
            case Event.CALL | Event.AGAIN:
                return named(Call, (self.a & 0xFFFF_FFFF & ~SMC64_BIT) - SMC32_BASE)
            case Event.EXCEPTION:
                return named(ExceptionClass, ESR_EL2(self.a).EC)
            case _:
                return ""


def named(kind: type[Name], number: int) -> str:
    return kind(number).name if number in kind.__members__.values() else ""


def entries(memory: bytes) -> list[Entry]:
    """Of all CPUs in the order of time. `memory` is the storage CPUS.

    A CPU may have been stopped while it wrote: the record in whose place it wrote is left out."""
    return sorted(
        (entry for cpu in range(CPU_COUNT_MAX) for entry in ring(memory, cpu)),
        key=lambda entry: (entry.time, entry.cpu),
    )


def ring(memory: bytes, cpu: int) -> Iterator[Entry]:
    """Of one CPU, oldest first."""
    found = Cpu.view(memory, cpu * Cpu.size).trace
    count = found.count
    for number in range(max(0, count - RECORD_COUNT + 1), count):
        row = found.records[number % RECORD_COUNT]
        if row.event in Event.__members__.values():
            yield Entry(row.time, cpu, Event(row.event), row.subject >> 16, row.subject & 0xFFFF, row.a, row.b)


def print_trace(as_json: bool) -> int:
    """Of the board that is up; it stands still while its memory is read."""
    from gz.cli.board import required

    found = entries(read_board(required()))
    if as_json:
        print(json.dumps([entry.as_json() for entry in found]))
    else:
        for entry in found:
            print(entry)
    return 0


def read_board(board: Board) -> bytes:
    """The storage CPUS of the core that a board runs."""
    from gz.board.qemu import physical_memory
    from gz.cli.debug import of_board
    from gz.cli.report import UserError
    from gz.metal.symbols import Symbols

    core, _ = of_board(board)
    offset, size = Symbols(core.with_suffix(".elf")).object(STORAGE)
    if size != SIZE:
        raise UserError("the board runs another core than these sources make; start it again")
    return physical_memory(board.path, offset, size)
