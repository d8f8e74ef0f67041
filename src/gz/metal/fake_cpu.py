# SPDX-License-Identifier: Apache-2.0
"""The IR around a program under the JIT: ways in that come back from panics, ways out into Python callbacks.

A way in (`gz_jit_enter.<function>`) takes its arguments as i64, calls setjmp and puts the jump buffer into
FRAME. A panic, a fault or an exception in a callback longjmps there with a Status. While Python runs inside a
callback FRAME is null: nothing may jump over Python's frames.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import signal
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import llvmlite.binding as llvm

from gz.bits.types import Type
from gz.metal.buffer import map_at
from gz.metal.emit.text import value_type
from gz.metal.engine import compile


class Status(IntEnum):
    """Why a call did not return."""

    PANIC = 1
    PYTHON = 2  # a callback raised
    FAULT = 3  # the processor did
    HANG = 4


class Word(IntEnum):
    """What the 64-bit words of the page shared with the generated code hold."""

    FRAME = 0
    STATUS = 1
    CALLS = 2
    PENDING = 3  # a callback raised
    SIGNAL = 4
    FAULT_ADDRESS = 5
    TICKS = 6
    CALLS_AT_TICK = 7
    TICK_LIMIT = 8
    RECORDS = 9  # count of records of log and panic
    RESULT = 16  # of tuples: one word each
    RECORD = 64  # RECORD_COUNT times kind, a, b, c


class Kind(IntEnum):
    """Records of log and panic."""

    TEXT = 1  # address, length
    NUMBER = 2  # value, base, signed
    PANIC = 3  # file's address, length, line


RECORD_COUNT = 1024
#: A call that goes on for that many ticks of CPU time is in an endless loop.
HANG_TICKS = 40
TICK_SECONDS = 0.25

# At a fixed place, so that the generated code is the same in every process.
PAGE_ADDRESS = 0xF_0000_0000
PAGE_SIZE = -(-(Word.RECORD + 4 * RECORD_COUNT) * 8 // mmap.PAGESIZE) * mmap.PAGESIZE


def word(name: Word, index: int = 0) -> str:
    """The operand that points to a word of the shared state."""
    return f"inttoptr (i64 {PAGE_ADDRESS + 8 * (name + index)} to ptr)"


DECLARATIONS = """
declare i32 @_setjmp(ptr) returns_twice
declare void @longjmp(ptr, i32) noreturn
"""


@dataclass(frozen=True)
class Signature:
    """A function's LLVM types."""

    result: str
    parameters: tuple[str, ...]

    @classmethod
    def of(cls, function: llvm.ValueRef) -> Signature:
        """The signature of a function of a module."""
        type = function.global_value_type
        return cls(str(type.get_function_return()), tuple(map(str, type.get_function_parameters())))

    @classmethod
    def declared(cls, parameters: Iterable[Type], result: Type) -> Signature:
        """How the compiler passes the types of the language."""
        return cls(value_type(result), tuple(map(value_type, parameters)))


#: Signatures of the slots in gz.metal.target whose callbacks are Python's.
CALLBACKS = {
    "gz_jit_on_read": Signature("i64", ("i32",)),
    "gz_jit_on_write": Signature("void", ("i32", "i64")),
    "gz_jit_on_smc": Signature("void", ("ptr", "i64", "ptr", "ptr")),
}


def jump(status: Status) -> str:
    """The call that leaves compiled code with this status."""
    return f"""\
  %frame = load volatile ptr, ptr {word(Word.FRAME)}, align 8
  store volatile i64 0, ptr {word(Word.FRAME)}, align 8
  call void @longjmp(ptr %frame, i32 {status:d})
  unreachable
"""


def record(kind: Kind, *values: str) -> str:
    """The instructions that append a record of words."""
    lines = [
        f"  %count = load i64, ptr {word(Word.RECORDS)}, align 8",
        f"  %slot = and i64 %count, {RECORD_COUNT - 1}",
        f"  %place = getelementptr [4 x i64], ptr {word(Word.RECORD)}, i64 %slot",
    ]
    for index, value in enumerate([str(int(kind)), *values]):
        lines.append(f"  %place{index} = getelementptr i64, ptr %place, i64 {index}")
        lines.append(f"  store i64 {value}, ptr %place{index}, align 8")
    lines.append("  %next = add i64 %count, 1")
    lines.append(f"  store i64 %next, ptr {word(Word.RECORDS)}, align 8")
    return "\n".join(lines) + "\n"


SINKS = f"""
define void @gz_jit_sink.text(ptr %text, i64 %length) {{
  %address = ptrtoint ptr %text to i64
{record(Kind.TEXT, "%address", "%length", "0")}  ret void
}}
define void @gz_jit_sink.number(i64 %value, i32 %base, i32 %signed) {{
  %wide = zext i32 %base to i64
  %sign = zext i32 %signed to i64
{record(Kind.NUMBER, "%value", "%wide", "%sign")}  ret void
}}
define void @gz_jit_sink.panic_begin(ptr %file, i64 %length, i32 %line) {{
  %address = ptrtoint ptr %file to i64
  %wide = zext i32 %line to i64
{record(Kind.PANIC, "%address", "%length", "%wide")}  ret void
}}
define void @gz_jit_sink.panic() noinline {{
{jump(Status.PANIC)}}}
"""


def _narrow(name: str, type: str, value: str) -> str:
    """An instruction that makes `name` of an LLVM type from an i64."""
    if type == "ptr":
        return f"  {name} = inttoptr i64 {value} to ptr\n"
    return f"  {name} = add i64 {value}, 0\n" if type == "i64" else f"  {name} = trunc i64 {value} to {type}\n"


def _widen(name: str, type: str, value: str) -> str:
    if type == "ptr":
        return f"  {name} = ptrtoint ptr {value} to i64\n"
    return f"  {name} = add i64 {value}, 0\n" if type == "i64" else f"  {name} = zext {type} {value} to i64\n"


def _members(type: str) -> list[str]:
    """`{ i64, i1 }`, a tuple or an array's address and length → ["i64", "i1"]; a scalar is its own member."""
    return [member.strip() for member in type.strip("{} ").split(",")] if type != "void" else []


def _pack(name: str, type: str, words: Sequence[str]) -> str:
    """Make `name` of an LLVM type from i64 operands, one for each member."""
    if not type.startswith("{"):
        return _narrow(name, type, words[0])
    text, whole = "", "poison"
    for i, (member, operand) in enumerate(zip(_members(type), words, strict=True)):
        last = i == len(words) - 1
        text += _narrow(f"{name}.m{i}", member, operand)
        text += f"  {name}{'' if last else f'.s{i}'} = insertvalue {type} {whole}, {member} {name}.m{i}, {i}\n"
        whole = f"{name}.s{i}"
    return text


def _unpack(name: str, type: str) -> tuple[str, list[str]]:
    """Instructions that take `name` apart into i64 operands, and these."""
    members = _members(type)
    operands = [f"{name}.w{i}" for i in range(len(members))]
    if not type.startswith("{"):
        return "".join(_widen(operand, type, name) for operand in operands), operands
    text = ""
    for i, (member, operand) in enumerate(zip(members, operands, strict=True)):
        text += f"  {name}.e{i} = extractvalue {type} {name}, {i}\n" + _widen(operand, member, f"{name}.e{i}")
    return text, operands


def word_count(type: str) -> int:
    """How many words a value of an LLVM type is."""
    return len(_members(type))


def way_in(name: str, signature: Signature) -> str:
    """`i64 gz_jit_enter.<name>(i64 …)`, a word for each member of each argument. The result is 0 for none; a
    tuple's members are in Word.RESULT."""
    words: list[str] = []
    arguments: list[str] = []
    packing = ""
    for i, type in enumerate(signature.parameters):
        own = [f"%a{i}.{j}" for j in range(word_count(type))]
        words += own
        packing += _pack(f"%b{i}", type, own)
        arguments.append(f"{type} %b{i}")
    call = f'call {signature.result} @"{name}"({", ".join(arguments)})\n'
    unpacking, results = _unpack("%r", signature.result)
    result = results[0] if len(results) == 1 else "0"
    stores = "".join(
        f"  store i64 {operand}, ptr {word(Word.RESULT, i)}, align 8\n"
        for i, operand in enumerate(results if signature.result.startswith("{") else ())
    )
    return f"""
declare {signature.result} @"{name}"({", ".join(signature.parameters)})
define i64 @"gz_jit_enter.{name}"({", ".join(f"i64 {operand}" for operand in words)}) {{
  %buffer = alloca [64 x i64], align 16
  %outer = load volatile i64, ptr {word(Word.FRAME)}, align 8
  %code = call i32 @_setjmp(ptr %buffer) returns_twice
  %first = icmp eq i32 %code, 0
  br i1 %first, label %go, label %caught
go:
  %frame = ptrtoint ptr %buffer to i64
  %calls = load i64, ptr {word(Word.CALLS)}, align 8
  %calls.next = add i64 %calls, 1
  store volatile i64 %calls.next, ptr {word(Word.CALLS)}, align 8
  store volatile i64 %frame, ptr {word(Word.FRAME)}, align 8
{packing}  {"%r = " if results else ""}{call}\
  store volatile i64 %outer, ptr {word(Word.FRAME)}, align 8
{unpacking}{stores}  ret i64 {result}
caught:
  store volatile i64 %outer, ptr {word(Word.FRAME)}, align 8
  %status = zext i32 %code to i64
  store volatile i64 %status, ptr {word(Word.STATUS)}, align 8
  ret i64 0
}}
"""


def way_out(name: str, signature: Signature) -> str:
    """`gz_jit_leave.<name>` calls the Python callback in the global `gz_jit_python.<name>`: words in, a word out.
    The members of a tuple are taken from Word.RESULT."""
    unpacking, words = "", list[str]()
    for i, type in enumerate(signature.parameters):
        text, operands = _unpack(f"%a{i}", type)
        unpacking += text
        words += operands
    count = word_count(signature.result)
    whole = signature.result.startswith("{")
    results = [f"%v{i}" for i in range(count)] if whole else ["%r"]
    loads = "".join(
        f"  {operand} = load i64, ptr {word(Word.RESULT, i)}, align 8\n"
        for i, operand in enumerate(results if whole else ())
    )
    packing = _pack("%n", signature.result, results) if count else ""
    return f"""
@"gz_jit_python.{name}" = global ptr null, align 8
define {signature.result} @"gz_jit_leave.{name}"(\
{", ".join(f"{type} %a{i}" for i, type in enumerate(signature.parameters))}) noinline {{
  %python = load ptr, ptr @"gz_jit_python.{name}", align 8
  %outer = load volatile i64, ptr {word(Word.FRAME)}, align 8
  store volatile i64 0, ptr {word(Word.FRAME)}, align 8
{unpacking}  %r = call i64 %python({", ".join(f"i64 {operand}" for operand in words)})
  store volatile i64 %outer, ptr {word(Word.FRAME)}, align 8
  %raised = load volatile i64, ptr {word(Word.PENDING)}, align 8
  %well = icmp eq i64 %raised, 0
  br i1 %well, label %back, label %raise
back:
{loads}{packing}  ret {f"{signature.result} %n" if count else "void"}
raise:
{jump(Status.PYTHON)}}}
"""


#: struct sigaction of glibc (x86-64, arm64): handler, 128 bytes of mask, flags, restorer.
SIGACTION_SIZE = 152
SIGACTION_FLAGS_AT = 136
SA_SIGINFO, SA_RESTART, SA_NODEFER = 4, 0x1000_0000, 0x4000_0000
FAULTS = (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGTRAP)

# A fault that is not in compiled code goes to the handler that was there before: it is put back and the
# instruction runs again. siginfo_t has si_addr at 16.
HANDLERS = f"""
{DECLARATIONS}
declare i32 @sigaction(i32, ptr, ptr)
@old_actions = global [64 x [{SIGACTION_SIZE} x i8]] zeroinitializer, align 8

define void @on_fault(i32 %signal, ptr %information, ptr %context) {{
  %frame.now = load volatile i64, ptr {word(Word.FRAME)}, align 8
  %ours = icmp ne i64 %frame.now, 0
  br i1 %ours, label %leave, label %other
leave:
  %wide = zext i32 %signal to i64
  store volatile i64 %wide, ptr {word(Word.SIGNAL)}, align 8
  %place = getelementptr i8, ptr %information, i64 16
  %address = load i64, ptr %place, align 8
  store volatile i64 %address, ptr {word(Word.FAULT_ADDRESS)}, align 8
{jump(Status.FAULT)}other:
  %action = getelementptr [64 x [{SIGACTION_SIZE} x i8]], ptr @old_actions, i64 0, i32 %signal
  %ignored = call i32 @sigaction(i32 %signal, ptr %action, ptr null)
  ret void
}}

define void @on_tick(i32 %signal, ptr %information, ptr %context) {{
  %frame.now = load volatile i64, ptr {word(Word.FRAME)}, align 8
  %ours = icmp ne i64 %frame.now, 0
  br i1 %ours, label %look, label %done
look:
  %calls = load volatile i64, ptr {word(Word.CALLS)}, align 8
  %before = load volatile i64, ptr {word(Word.CALLS_AT_TICK)}, align 8
  %ticks = load volatile i64, ptr {word(Word.TICKS)}, align 8
  %same = icmp eq i64 %calls, %before
  %more = add i64 %ticks, 1
  %now = select i1 %same, i64 %more, i64 0
  store volatile i64 %now, ptr {word(Word.TICKS)}, align 8
  store volatile i64 %calls, ptr {word(Word.CALLS_AT_TICK)}, align 8
  %limit = load volatile i64, ptr {word(Word.TICK_LIMIT)}, align 8
  %long = icmp uge i64 %now, %limit
  br i1 %long, label %leave, label %done
leave:
  store volatile i64 0, ptr {word(Word.TICKS)}, align 8
{jump(Status.HANG)}done:
  ret void
}}
"""


@functools.cache
def shared_page() -> memoryview:
    """The words, once per process, with the signal handlers behind them."""
    map_at(PAGE_ADDRESS, PAGE_SIZE)
    words = memoryview((ctypes.c_uint64 * (PAGE_SIZE // 8)).from_address(PAGE_ADDRESS)).cast("B").cast("Q")
    words[Word.TICK_LIMIT] = HANG_TICKS
    _ENGINES.append(engine := compile(llvm.parse_assembly(HANDLERS), 1))
    old_actions = engine.get_global_value_address("old_actions")
    for number in (*FAULTS, signal.SIGPROF):
        name = "on_tick" if number == signal.SIGPROF else "on_fault"
        action = (ctypes.c_ubyte * SIGACTION_SIZE)()
        struct.pack_into("<Q", action, 0, engine.get_function_address(name))
        struct.pack_into("<I", action, SIGACTION_FLAGS_AT, SA_SIGINFO | SA_RESTART | SA_NODEFER)
        old = ctypes.c_void_p(old_actions + SIGACTION_SIZE * number)
        if ctypes.CDLL(None).sigaction(int(number), action, old) != 0:
            raise OSError(f"sigaction({number.name}) failed")
    # Only for this process: a child that went on to be another program would die of its first SIGPROF.
    signal.setitimer(signal.ITIMER_PROF, TICK_SECONDS, TICK_SECONDS)
    return words


_ENGINES: list[llvm.ExecutionEngine] = []  # the handlers' code
