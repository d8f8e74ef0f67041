# SPDX-License-Identifier: Apache-2.0
"""The fake CPU: calls in, panics out, hooks, events, memory."""

from __future__ import annotations

import subprocess
import sys
import time
from array import array as array_of
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import pytest

from gz.bits import Array, Ptr, Register, Struct, array, field, i32, storage, u8, u16, u32, u64
from gz.bits.storage import Storage
from gz.metal.fake_cpu import Kind, Word, shared_page
from gz.metal.jit import Fault, Hang, Jit, Panic, register_index

NAME = __name__


class Pair(Struct):
    first: u64
    second: u32
    bytes: Array[u8] = array(4)
    next: Ptr[Pair] | None


class Flags(Register, width=32):
    LOW = field(3, 0)


PAIRS = storage(Pair, 4)


def add(a: u64, b: u32) -> u64: ...
def sign(a: i32) -> i32: ...
def divide(a: u64, b: u64) -> tuple[u64, bool]: ...
def second(pair: Pair) -> u32: ...
def follow(pair: Pair | None) -> Pair | None: ...
def flags(value: Flags) -> Flags: ...
def give_up(value: u64) -> None: ...
def load(address: u64) -> u64: ...
def loop() -> None: ...
def stop() -> None: ...
def read_vbar() -> u64: ...
def write_vbar(value: u64) -> None: ...
def call(a: u64) -> u64: ...
def ask(a: u16, pair: Pair) -> tuple[u16, bool]: ...
def asks(a: u16, pair: Pair) -> tuple[u16, bool]: ...
def log_number(a: u64) -> None: ...
def flush(a: u64) -> None: ...


ROOTS = {
    f"{NAME}.{function.__name__}": function
    for function in (
        add, sign, divide, second, follow, flags, give_up, load, loop, stop, read_vbar, write_vbar, call,
        asks, log_number, flush,
    )
}  # fmt: skip

VBAR = register_index("VBAR_EL2")

# What the compiler emits for the JIT target, by hand: these tests are of the machine, not of the compiler.
PROGRAM = f"""
@gz_jit_sysregs = global [32768 x i64] zeroinitializer, align 8
@gz_jit_sysreg_hooks = global [32768 x i8] zeroinitializer, align 8
@gz_jit_event_count = global i64 0, align 8
@gz_jit_events = global [16384 x {{ ptr, i64, i64 }}] zeroinitializer, align 8
@gz_jit_on_read = global ptr null, align 8
@gz_jit_on_write = global ptr null, align 8
@gz_jit_on_smc = global ptr null, align 8
@gz_jit_on_text = global ptr null, align 8
@gz_jit_on_number = global ptr null, align 8
@gz_jit_on_panic_begin = global ptr null, align 8
@gz_jit_on_panic = global ptr null, align 8
@gz_jit_extern.ask = global ptr null, align 8
@"NAME.PAIRS" = global [4 x [24 x i8]] zeroinitializer, align 8

@file = internal constant [6 x i8] c"vcpu.c"
@words = internal constant [10 x i8] c"no vcpu at"
@civac = internal constant [8 x i8] c"dc civac"
@smc = internal constant [3 x i8] c"smc"

define i64 @"NAME.add"(i64 %a, i32 %b) {{
  %w = zext i32 %b to i64
  %r = add i64 %a, %w
  ret i64 %r
}}
define i32 @"NAME.sign"(i32 %a) {{
  ret i32 %a
}}
define {{ i64, i1 }} @"NAME.divide"(i64 %a, i64 %b) {{
  %q = udiv i64 %a, %b
  %m = urem i64 %a, %b
  %z = icmp eq i64 %m, 0
  %s = insertvalue {{ i64, i1 }} poison, i64 %q, 0
  %t = insertvalue {{ i64, i1 }} %s, i1 %z, 1
  ret {{ i64, i1 }} %t
}}
define i32 @"NAME.second"(ptr %pair) {{
  %p = getelementptr i8, ptr %pair, i64 8
  %r = load i32, ptr %p, align 4
  ret i32 %r
}}
define ptr @"NAME.follow"(ptr %pair) {{
  %n = icmp eq ptr %pair, null
  br i1 %n, label %none, label %some
none:
  ret ptr null
some:
  %p = getelementptr i8, ptr %pair, i64 16
  %r = load ptr, ptr %p, align 8
  ret ptr %r
}}
define i32 @"NAME.flags"(i32 %value) {{
  %r = or i32 %value, 16
  ret i32 %r
}}
define void @"NAME.give_up"(i64 %value) {{
  %begin = load ptr, ptr @gz_jit_on_panic_begin, align 8
  call void %begin(ptr @file, i64 6, i32 42)
  %text = load ptr, ptr @gz_jit_on_text, align 8
  call void %text(ptr @words, i64 7)
  %number = load ptr, ptr @gz_jit_on_number, align 8
  call void %number(i64 %value, i32 16, i32 0)
  %panic = load ptr, ptr @gz_jit_on_panic, align 8
  call void %panic()
  unreachable
}}
define void @"NAME.log_number"(i64 %value) {{
  %text = load ptr, ptr @gz_jit_on_text, align 8
  call void %text(ptr @words, i64 10)
  %number = load ptr, ptr @gz_jit_on_number, align 8
  call void %number(i64 %value, i32 10, i32 1)
  ret void
}}
define i64 @"NAME.load"(i64 %address) {{
  %p = inttoptr i64 %address to ptr
  %r = load volatile i64, ptr %p, align 8
  ret i64 %r
}}
define void @"NAME.loop"() {{
  br label %again
again:
  call void asm sideeffect "", ""()
  br label %again
}}
define void @"NAME.stop"() {{
  call void @llvm.trap()
  unreachable
}}
declare void @llvm.trap()
define i64 @"NAME.read_vbar"() {{
  %h = load i8, ptr getelementptr (i8, ptr @gz_jit_sysreg_hooks, i64 {VBAR}), align 1
  %b = and i8 %h, 1
  %z = icmp eq i8 %b, 0
  br i1 %z, label %plain, label %hook
plain:
  %v = load i64, ptr getelementptr (i64, ptr @gz_jit_sysregs, i64 {VBAR}), align 8
  ret i64 %v
hook:
  %f = load ptr, ptr @gz_jit_on_read, align 8
  %w = call i64 %f(i32 {VBAR})
  ret i64 %w
}}
define void @"NAME.write_vbar"(i64 %value) {{
  %h = load i8, ptr getelementptr (i8, ptr @gz_jit_sysreg_hooks, i64 {VBAR}), align 1
  %b = and i8 %h, 2
  %z = icmp eq i8 %b, 0
  br i1 %z, label %plain, label %hook
plain:
  store i64 %value, ptr getelementptr (i64, ptr @gz_jit_sysregs, i64 {VBAR}), align 8
  ret void
hook:
  %f = load ptr, ptr @gz_jit_on_write, align 8
  call void %f(i32 {VBAR}, i64 %value)
  ret void
}}
define i64 @"NAME.call"(i64 %a) {{
  %in = alloca [8 x i64], align 8
  %out = alloca [4 x i64], align 8
  call void @llvm.memset(ptr %in, i8 0, i64 64, i1 false)
  call void @llvm.memset(ptr %out, i8 0, i64 32, i1 false)
  store i64 %a, ptr %in, align 8
  %f = load ptr, ptr @gz_jit_on_smc, align 8
  call void %f(ptr @smc, i64 3, ptr %in, ptr %out)
  %p = getelementptr i64, ptr %out, i64 1
  %x = load i64, ptr %out, align 8
  %y = load i64, ptr %p, align 8
  %r = add i64 %x, %y
  ret i64 %r
}}
declare void @llvm.memset(ptr, i8, i64, i1)
define {{ i16, i1 }} @"NAME.asks"(i16 %a, ptr %pair) {{
  %f = load ptr, ptr @gz_jit_extern.ask, align 8
  %r = call {{ i16, i1 }} %f(i16 %a, ptr %pair)
  ret {{ i16, i1 }} %r
}}
define void @"NAME.flush"(i64 %address) {{
  %n = load i64, ptr @gz_jit_event_count, align 8
  %i = urem i64 %n, 16384
  %e = getelementptr {{ ptr, i64, i64 }}, ptr @gz_jit_events, i64 %i
  store {{ ptr, i64, i64 }} {{ ptr @civac, i64 8, i64 0 }}, ptr %e, align 8
  %v = getelementptr i64, ptr %e, i64 2
  store i64 %address, ptr %v, align 8
  %m = add i64 %n, 1
  store i64 %m, ptr @gz_jit_event_count, align 8
  ret void
}}
""".replace("NAME.", NAME + ".")


@pytest.fixture(scope="module")
def machine() -> Jit:
    assert isinstance(PAIRS, Storage)
    return Jit(PROGRAM, roots=ROOTS, storage={f"{NAME}.PAIRS": PAIRS}, extern_functions={"ask": ask})


@pytest.fixture
def jit(machine: Jit):
    machine.reset()
    return machine


def test_integers(jit: Jit) -> None:
    assert jit.fn(add)(2**64 - 1, 2**32 - 1) == 2**32 - 2
    assert jit.call(f"{NAME}.add", 1, 2) == 3
    assert jit.fn(sign)(-5) == -5
    with pytest.raises(OverflowError, match="0x100000000 does not fit u32"):
        jit.fn(add)(1, 2**32)
    with pytest.raises(OverflowError):
        jit.fn(add)(-1, 0)
    with pytest.raises(TypeError, match="takes 2 values, not 1"):
        jit.fn(add)(1)


def test_tuples_and_registers(jit: Jit) -> None:
    assert jit.fn(divide)(10, 5) == (2, True)
    assert jit.fn(divide)(11, 5) == (2, False)
    assert jit.fn(flags)(Flags(LOW=3)).LOW == 3
    assert isinstance(jit.fn(flags)(1), Flags) and jit.fn(flags)(1) == 17


def test_references(jit: Jit) -> None:
    pairs = jit.storage(PAIRS)
    assert jit.storage(f"{NAME}.PAIRS")[3].second == 0
    pairs[1].second = 77
    assert jit.fn(second)(pairs[1]) == 77
    own = Pair.view(bytearray(Pair.size))
    own.second = 5
    assert jit.fn(second)(own) == 5
    assert jit.fn(follow)(None) is None and jit.fn(follow)(own) is None
    memory = jit.buffer(4096)
    behind = Pair.view(memory.memory)
    own.next, behind.second = behind, 9
    assert jit.fn(follow)(own).second == 9
    with pytest.raises(TypeError, match="None is no Pair"):
        jit.fn(second)(None)
    jit.reset()
    assert pairs[1].second == 0


def test_panic(jit: Jit) -> None:
    with pytest.raises(Panic) as caught:
        jit.fn(give_up)(0x1234)
    assert (caught.value.message, caught.value.file, caught.value.line) == ("no vcpu1234", "vcpu.c", 42)
    assert str(caught.value) == "vcpu.c:42: no vcpu1234"
    assert jit.fn(add)(1, 2) == 3


def test_a_panic_reads_nothing_of_a_program_that_is_gone(jit: Jit) -> None:
    """All programs of a process share the records; the texts of one that was unloaded are no memory any more."""
    words = shared_page()
    words[Word.RECORD : Word.RECORD + 4] = array_of("Q", [Kind.TEXT, 16, 5, 0])
    words[Word.RECORDS] = 1
    with pytest.raises(Panic, match="no vcpu7"):
        jit.call(f"{NAME}.give_up", 7)


def test_log(jit: Jit) -> None:
    jit.fn(log_number)(2**64 - 3)
    assert jit.log == "no vcpu at-3"
    jit.reset()
    assert jit.log == ""


def test_faults(jit: Jit) -> None:
    with pytest.raises(Fault, match="SIGSEGV at address 0x1230") as caught:
        jit.fn(load)(0x1230)
    assert caught.value.address == 0x1230
    with pytest.raises(Fault, match="SIGFPE"):
        jit.fn(divide)(1, 0)
    with pytest.raises(Fault, match=r"SIGILL|SIGTRAP"):
        jit.fn(stop)()
    memory = jit.buffer(4096)
    with pytest.raises(Fault):
        jit.fn(load)(memory.address + 4096)


def test_a_fault_outside_of_compiled_code_still_kills() -> None:
    script = "from gz.metal import fake_cpu; import ctypes; fake_cpu.shared_page(); ctypes.string_at(16)"
    command = [sys.executable, "-X", "faulthandler", "-c", script]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == -11
    assert "ctypes" in done.stderr


def test_endless_loops_end(jit: Jit) -> None:
    words = jit._words  # pyright: ignore[reportPrivateUsage]
    limit, words[Word.TICK_LIMIT] = words[Word.TICK_LIMIT], 2
    try:
        with pytest.raises(Hang):
            jit.fn(loop)()
    finally:
        words[Word.TICK_LIMIT] = limit


def test_system_registers(jit: Jit) -> None:
    jit.sysregs.VBAR_EL2 = 0x800
    assert jit.fn(read_vbar)() == 0x800
    jit.fn(write_vbar)(0x1000)
    assert jit.sysregs.VBAR_EL2 == 0x1000
    with pytest.raises(AttributeError, match="no system register VBAR_EL9"):
        jit.sysregs.VBAR_EL9 = 1


def test_register_hooks(jit: Jit) -> None:
    seen: list[int] = []
    jit.on_read("VBAR_EL2", lambda: 7)
    jit.on_write("VBAR_EL2", seen.append)
    jit.fn(write_vbar)(5)
    assert (jit.fn(read_vbar)(), seen, jit.sysregs.VBAR_EL2) == (7, [5], 5)
    jit.on_read("VBAR_EL2", None)
    assert jit.fn(read_vbar)() == 5
    jit.reset()
    jit.fn(write_vbar)(6)
    assert seen == [5]


def test_exceptions_of_hooks_come_through(jit: Jit) -> None:
    def fail() -> int:
        raise KeyError("hook")

    jit.on_read("VBAR_EL2", fail)
    with pytest.raises(KeyError, match="hook"):
        jit.fn(read_vbar)()
    assert jit.fn(add)(1, 1) == 2


def test_calls_within_hooks(jit: Jit) -> None:
    def inner() -> int:
        with pytest.raises(Panic):
            jit.fn(give_up)(1)
        return jit.fn(add)(20, 1)

    jit.on_read("VBAR_EL2", inner)
    assert jit.fn(read_vbar)() == 21
    jit.on_read("VBAR_EL2", lambda: jit.fn(give_up)(2))
    with pytest.raises(Panic, match="no vcpu2"):
        jit.fn(read_vbar)()


def test_smc(jit: Jit) -> None:
    assert jit.fn(call)(1) == 0
    jit.on_smc(lambda *x: (x[0] * 2, len(x)))
    assert jit.fn(call)(50) == 108
    jit.on_smc(lambda *x: -1)
    assert jit.fn(call)(50) == 2**64 - 1


def test_externs(jit: Jit) -> None:
    seen: list[tuple[int, int]] = []

    def answer(a: int, pair: Any) -> tuple[int, Any]:
        seen.append((a, pair.second))
        return a + 1, a > 3

    jit.define("ask", answer)
    pair = Pair.view(bytearray(Pair.size))
    pair.second = 3
    assert jit.fn(asks)(3, pair) == (4, False)
    assert jit.fn(asks)(4, pair) == (5, True)
    assert seen == [(3, 3), (4, 3)]

    def too_much(a: int, pair: Any) -> tuple[int, bool]:
        return 70000, True

    jit.define("ask", too_much)
    with pytest.raises(OverflowError):
        jit.fn(asks)(4, pair)
    with pytest.raises(LookupError, match="no extern"):
        jit.define("nobody", answer)


def test_events(jit: Jit) -> None:
    jit.fn(flush)(0x4000)
    assert jit.events == [("dc civac", 0x4000)]
    for i in range(16384):
        jit.fn(flush)(i)
    assert len(jit.events) == 16384 and jit.events[0].value == 0
    jit.clear_events()
    assert jit.events == []


def test_buffers(jit: Jit) -> None:
    first, second_ = jit.buffer(100), jit.buffer(1 << 21, align=1 << 21)
    assert first.address % 4096 == 0 and second_.address % (1 << 21) == 0
    assert first.address < second_.address < 1 << 39
    first.memory[0:8] = (1234).to_bytes(8, "little")
    assert jit.fn(load)(first.address) == 1234
    kept = second_.memory[8:16]
    address = second_.address
    del second_
    kept[0] = 5
    assert jit.fn(load)(address + 8) == 5
    del kept
    with pytest.raises(Fault):
        jit.fn(load)(address + 8)


def test_machine_code_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GZ_STATE", str(tmp_path))

    def compiled() -> Jit:
        return Jit(PROGRAM, roots=ROOTS, extern_functions={"ask": ask})

    assert compiled().fn(add)(1, 2) == 3
    (path,) = (tmp_path / "objects").iterdir()
    made = path.read_bytes()

    def optimise(*_: object) -> None:
        pytest.fail("optimised again")

    monkeypatch.setattr(llvm, "create_pass_builder", optimise)
    assert compiled().fn(add)(2, 3) == 5
    monkeypatch.undo()
    monkeypatch.setenv("GZ_STATE", str(tmp_path))
    path.write_bytes(made[:-1] + b"?")
    assert compiled().fn(add)(3, 4) == 7
    assert path.read_bytes() == made


def test_speed(jit: Jit) -> None:
    raw = jit.raw(f"{NAME}.add")
    begin = time.perf_counter()
    for _ in range(100_000):
        raw(1, 2)
    assert 100_000 / (time.perf_counter() - begin) > 250_000
