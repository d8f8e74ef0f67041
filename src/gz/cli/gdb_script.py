# SPDX-License-Identifier: Apache-2.0
"""Runs inside gdb (`gz debug`): the way from the exception vectors to the world they interrupted.

DWARF's call frame information cannot name the system registers that hold the interrupted PC and stack pointer, and
saving them for the debugger alone would cost every exit; QEMU's stub shows them. Needs the core's symbols loaded."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gdb  # pyright: ignore[reportMissingModuleSource]
from gdb.unwinder import Unwinder, register_unwinder  # pyright: ignore[reportMissingModuleSource]

sys.path.append(str(Path(__file__).parents[2]))

from gz.arm64.syndrome import ESR_EL2, ExceptionClass
from gz.arm64.sysreg import SysRegs
from gz.cli import trace
from gz.core.context import EL1_REGISTERS

MASK = (1 << 64) - 1
NUMBERS = range(31)
SP_SELECT, EXCEPTION_LEVEL, AARCH32 = 1, 3 << 2, 1 << 4
"""SPSR_EL2.M (DDI 0487 C5.2.19)."""
CALL, CALL_MASK = 0x9400_0000, 0xFC00_0000
"""BL (DDI 0487 C6.2.35)."""


def number(value: Any) -> int:
    return int(value) & MASK


def read(address: int, size: int = 8) -> int:
    return int.from_bytes(bytes(gdb.selected_inferior().read_memory(address, size)), "little")


class Layout:
    """Where the fields of a struct are, from the symbols."""

    def __init__(self, name: str) -> None:
        self.offsets = {field.name: (field.bitpos or 0) // 8 for field in gdb.lookup_type(f"struct {name}").fields()}

    def read(self, base: int, name: str, index: int = 0) -> int:
        return read(base + self.offsets[name] + 8 * index)


class Interrupted:
    """The registers of the world below EL2 on a CPU. `live` reads a register of the CPU as the vectors left it."""

    def __init__(self, live: Any) -> None:
        self.context = number(live("TPIDR_EL2"))
        context = Layout("Context")
        self.x = [context.read(self.context, "x", n) for n in NUMBERS]
        self.vcpu = context.read(self.context, "vcpu")
        if number(live("VTTBR_EL2")) == context.read(self.context, "vttbr"):
            self.pc, self.pstate = number(live("ELR_EL2")), number(live("SPSR_EL2"))
            sp_el0, sp_el1 = number(live("SP_EL0")), number(live("SP_EL1"))
        else:  # the CPU's EL1 registers are another world's already (core/world.py)
            self.pc, self.pstate = context.read(self.context, "elr"), context.read(self.context, "spsr")
            sp_el0, sp_el1 = (
                context.read(self.context, "el1", EL1_REGISTERS.index(register))
                for register in (SysRegs.SP_EL0, SysRegs.SP_EL1)
            )
        if self.pstate & AARCH32:
            self.sp = self.x[13]
        else:
            self.sp = sp_el1 if self.pstate & SP_SELECT else sp_el0

    @property
    def name(self) -> str:
        """Whose registers they are."""
        if self.vcpu == 0:
            return "the host"
        vcpu = gdb.Value(self.vcpu).cast(gdb.lookup_type("struct Vcpu").pointer())
        return f"vCPU {int(vcpu['index'])} of VM {int(vcpu['vm']['vmid'])}"


@dataclass(frozen=True)
class FrameId:
    """What gdb knows a frame by."""

    sp: Any
    pc: Any


class Vectors(Unwinder):
    """Below the vectors is what they interrupted: a world below EL2, or EL2 itself if it panics."""

    def __init__(self) -> None:
        super().__init__("exception vectors")
        place = {name: number(gdb.parse_and_eval(f"(long)&{name}")) for name in ("vectors", "resume", "own_exception")}
        self.lower = range(place["vectors"], place["resume"])
        self.own = range(place["own_exception"], number(gdb.parse_and_eval("(long)&fp_save")))
        self.fault = number(gdb.parse_and_eval("(long)&emergency_fault"))

    def __call__(self, pending_frame: gdb.PendingFrame) -> gdb.UnwindInfo | None:
        pc = number(pending_frame.read_register("pc"))
        below, itself = pc in self.lower, pc in self.own
        # Before their call the vectors are still saving: the registers are the CPU's own.
        if not (below or itself) or read(pc - 4, 4) & CALL_MASK != CALL:
            return None
        found = pending_frame.create_unwind_info(
            FrameId(pending_frame.read_register("sp"), pending_frame.read_register("pc"))
        )
        if below:
            try:
                world = Interrupted(pending_frame.read_register)
            except gdb.error:
                return None  # behind a panic of the core: the registers are those of its own exception
            registers = dict(zip((f"x{n}" for n in NUMBERS), world.x, strict=True))
            registers |= {"sp": world.sp, "pc": world.pc, "cpsr": world.pstate}
        else:
            fault = Layout("Fault")
            registers = {f"x{n}": fault.read(self.fault, "x", n) for n in NUMBERS}
            registers |= {"sp": fault.read(self.fault, "sp"), "pc": number(pending_frame.read_register("ELR_EL2"))}
        word, half = gdb.lookup_type("unsigned long"), gdb.lookup_type("unsigned int")
        for name, value in registers.items():
            found.add_saved_register(name, gdb.Value(value).cast(half if name == "cpsr" else word))
        return found


class World(gdb.Command):
    """gz-world: who runs below EL2 on this CPU, where, and the exception that led here."""

    def __init__(self) -> None:
        super().__init__("gz-world", gdb.COMMAND_STATUS)

    def invoke(self, argument: str, from_tty: bool) -> None:
        frame = gdb.newest_frame()
        if number(frame.read_register("TPIDR_EL2")) == 0:
            raise gdb.GdbError("nothing has run below EL2 on this CPU yet")
        world = Interrupted(frame.read_register)
        syndrome = ESR_EL2(number(frame.read_register("ESR_EL2")))
        known = syndrome.EC in ExceptionClass.__members__.values()
        kind = ExceptionClass(syndrome.EC).name if known else f"exception class {syndrome.EC:#x}"
        print(f"{world.name}: pc {world.pc:#x}, sp {world.sp:#x}, pstate {world.pstate:#x}, context {world.context:#x}")
        print(f"ESR_EL2 {int(syndrome):#x}: {kind}")
        for first in range(0, 31, 4):
            print("  ".join(f"x{n:<2} {world.x[n]:016x}" for n in NUMBERS[first : first + 4]))


class Trace(gdb.Command):
    """gz-trace [COUNT]: what the core did last, all CPUs by time; the last 20 records or so many."""

    def __init__(self) -> None:
        super().__init__("gz-trace", gdb.COMMAND_STATUS)

    def invoke(self, argument: str, from_tty: bool) -> None:
        if argument and not argument.isdecimal():
            raise gdb.GdbError("gz-trace takes a number of records")
        place = number(gdb.parse_and_eval(f"(long)&'{trace.STORAGE}'"))
        for entry in trace.entries(bytes(gdb.selected_inferior().read_memory(place, trace.SIZE)))[
            -int(argument or 20) :
        ]:
            print(entry)


register_unwinder(None, Vectors(), replace=True)
World()
Trace()
