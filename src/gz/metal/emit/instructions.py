# SPDX-License-Identifier: Apache-2.0
"""Instructions of the architecture: as they are at EL2, what of them user space has, and what stands for them
where the CPU is fake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gz.arm64.operations import Sys
from gz.bits.sysreg import SysReg
from gz.metal import tree
from gz.metal.emit import values
from gz.metal.emit.body import Body
from gz.metal.errors import Refusal
from gz.metal.target import Machine

RESULT = "{i64, i64, i64, i64}"


def instruction(body: Body, node: tree.Instruction) -> str:
    """An instruction of the architecture, for the target or the fake CPU."""
    operands = [values.value(body, operand) for operand in node.operands]
    body.at(node.at)
    machine = body.module.target.machine
    if machine is Machine.FAKE:
        return _FAKE[node.kind](body, node, operands)
    if machine is Machine.X86_64_USER and node.name.startswith("dmb"):
        body.do("fence seq_cst")  # what orders all accesses there
        return ""
    if machine is Machine.X86_64_USER or (machine is Machine.ARM64_USER and not _in_user_space(node)):
        raise Refusal(None, f"{node.name} does not exist in {machine.value}")
    return _ARM64[node.kind](body, node, operands)


def _in_user_space(node: tree.Instruction) -> bool:
    operation: Any = node.operation
    if node.kind in ("sysreg_read", "sysreg_write", "sys"):
        return operation.op1 == 3
    return node.kind in ("plain", "barrier") or node.name in ("doorbell", "svc")


def _sysreg_read(body: Body, node: tree.Instruction, operands: Sequence[str]) -> str:
    register: SysReg = node.operation
    return body.let(f'call i64 asm sideeffect "mrs $0, {register.encoding}", "=r"()')


def _sysreg_write(body: Body, node: tree.Instruction, operands: Sequence[str]) -> str:
    register: SysReg = node.operation
    body.do(f'call void asm sideeffect "msr {register.encoding}, ${{0:x}}", "rZ"(i64 {operands[0]})')
    return ""


def _plain(body: Body, node: tree.Instruction, operands: Sequence[str]) -> str:
    body.do(f'call void asm sideeffect "{node.name.rstrip("_")}", "~{{memory}}"()')
    return ""


def _barrier(body: Body, node: tree.Instruction, operands: Sequence[str]) -> str:
    body.do(f'call void asm sideeffect "{node.name.split()[0]} #{node.operation}", "~{{memory}}"()')
    return ""


def _sys(body: Body, node: tree.Instruction, operands: Sequence[str]) -> str:
    operation: Sys = node.operation
    text = f"sys #{operation.op1}, c{operation.crn}, c{operation.crm}, #{operation.op2}"
    if operands:
        body.do(f'call void asm sideeffect "{text}, ${{0:x}}", "rZ,~{{memory}}"(i64 {operands[0]})')
    else:
        body.do(f'call void asm sideeffect "{text}", "~{{memory}}"()')
    return ""


def _call(body: Body, node: tree.Instruction, operands: Sequence[str]) -> str:
    """SMC calling convention (DEN0028 2.6): x0-x7 in, x0-x3 out, x4-x17 lost. The doorbell and the kernel keep
    the others."""
    count = 1 if node.name in _EXTRA else 0
    extra, arguments = operands[:count], operands[count:]
    text, where = _EXTRA.get(node.name, (f"{node.name} #0", ""))
    count = len(arguments)
    constraints = [f"={{x{number}}}" for number in range(count)] + [str(number) for number in range(count)]
    constraints += [where] if extra else [f"~{{x{number}}}" for number in range(8, 18)]
    constraints.append("~{memory}")
    given = ", ".join(f"i64 {operand}" for operand in (*arguments, *extra))
    whole = "{" + ", ".join(["i64"] * count) + "}"
    answer = body.let(f'call {whole} asm sideeffect "{text}", "{",".join(constraints)}"({given})')
    result = "poison"
    for number in range(4):
        part = body.let(f"extractvalue {whole} {answer}, {number}")
        result = body.let(f"insertvalue {RESULT} {result}, i64 {part}, {number}")
    return result


#: Calls with one operand more before x0: their text, and where that operand is.
_EXTRA = {"doorbell": ("str wzr, [$16]", "r"), "svc": ("svc #0", "{x8}")}

_ARM64: dict[str, Callable[[Body, tree.Instruction, Sequence[str]], str]] = {
    "sysreg_read": _sysreg_read,
    "sysreg_write": _sysreg_write,
    "plain": _plain,
    "barrier": _barrier,
    "sys": _sys,
    "call": _call,
}


def _fake_read(body: Body, node: tree.Instruction, operands: Sequence[str]) -> str:
    body.module.need_fake_cpu()
    return body.let(f"call i64 @gz.fake_sysreg_read(i32 {node.operation.index})")


def _fake_write(body: Body, node: tree.Instruction, operands: Sequence[str]) -> str:
    body.module.need_fake_cpu()
    body.do(f"call void @gz.fake_sysreg_write(i32 {node.operation.index}, i64 {operands[0]})")
    return ""


def _fake_event(body: Body, node: tree.Instruction, operands: Sequence[str]) -> str:
    body.module.need_fake_cpu()
    name, length = body.module.text(body, node.name)
    body.do(f"call void @gz.fake_event(ptr {name}, i64 {length}, i64 {operands[0] if operands else 0})")
    return ""


def _fake_call(body: Body, node: tree.Instruction, operands: Sequence[str]) -> str:
    body.module.need_fake_cpu()
    name, length = body.module.text(body, node.name)
    count = len(operands)
    arguments, results = body.scratch(f"[{count} x i64]"), body.scratch("[4 x i64]")
    for number, operand in enumerate(operands):
        place = body.let(f"getelementptr i64, ptr {arguments}, i64 {number}")
        body.do(f"store i64 {operand}, ptr {place}, align 8")
    body.do(f"call void @gz.fake_smc(ptr {name}, i64 {length}, ptr {arguments}, ptr {results})")
    return body.let(f"load {RESULT}, ptr {results}, align 8")


_FAKE: dict[str, Callable[[Body, tree.Instruction, Sequence[str]], str]] = {
    "sysreg_read": _fake_read,
    "sysreg_write": _fake_write,
    "plain": _fake_event,
    "barrier": _fake_event,
    "sys": _fake_event,
    "call": _fake_call,
}

#: The fake CPU's machinery, beside the globals that gz.metal.target describes.
FAKE_CPU = """\
@gz_jit_sysregs = global [32768 x i64] zeroinitializer, align 8
@gz_jit_sysreg_hooks = global [32768 x i8] zeroinitializer, align 8
@gz_jit_on_read = global ptr null, align 8
@gz_jit_on_write = global ptr null, align 8
@gz_jit_event_count = global i64 0, align 8
@gz_jit_events = global [16384 x {ptr, i64, i64}] zeroinitializer, align 8
@gz_jit_on_smc = global ptr null, align 8

define internal i64 @gz.fake_sysreg_read(i32 %index) #0 {
  %place = zext i32 %index to i64
  %hook = getelementptr [32768 x i8], ptr @gz_jit_sysreg_hooks, i64 0, i64 %place
  %flags = load i8, ptr %hook, align 1
  %flag = and i8 %flags, 1
  %plain = icmp eq i8 %flag, 0
  br i1 %plain, label %stored, label %hooked
stored:
  %slot = getelementptr [32768 x i64], ptr @gz_jit_sysregs, i64 0, i64 %place
  %old = load i64, ptr %slot, align 8
  ret i64 %old
hooked:
  %function = load ptr, ptr @gz_jit_on_read, align 8
  %given = call i64 %function(i32 %index)
  ret i64 %given
}

define internal void @gz.fake_sysreg_write(i32 %index, i64 %value) #0 {
  %place = zext i32 %index to i64
  %slot = getelementptr [32768 x i64], ptr @gz_jit_sysregs, i64 0, i64 %place
  store i64 %value, ptr %slot, align 8
  %hook = getelementptr [32768 x i8], ptr @gz_jit_sysreg_hooks, i64 0, i64 %place
  %flags = load i8, ptr %hook, align 1
  %flag = and i8 %flags, 2
  %plain = icmp eq i8 %flag, 0
  br i1 %plain, label %done, label %hooked
hooked:
  %function = load ptr, ptr @gz_jit_on_write, align 8
  call void %function(i32 %index, i64 %value)
  br label %done
done:
  ret void
}

define internal void @gz.fake_event(ptr %name, i64 %length, i64 %argument) noinline #0 {
  %count = load i64, ptr @gz_jit_event_count, align 8
  %next = add i64 %count, 1
  store i64 %next, ptr @gz_jit_event_count, align 8
  %index = and i64 %count, 16383
  %event = getelementptr [16384 x {ptr, i64, i64}], ptr @gz_jit_events, i64 0, i64 %index
  store ptr %name, ptr %event, align 8
  %second = getelementptr i8, ptr %event, i64 8
  store i64 %length, ptr %second, align 8
  %third = getelementptr i8, ptr %event, i64 16
  store i64 %argument, ptr %third, align 8
  ret void
}

define internal void @gz.fake_smc(ptr %name, i64 %length, ptr %arguments, ptr %results) noinline #0 {
  store {i64, i64, i64, i64} zeroinitializer, ptr %results, align 8
  %function = load ptr, ptr @gz_jit_on_smc, align 8
  %none = icmp eq ptr %function, null
  br i1 %none, label %done, label %hooked
hooked:
  call void %function(ptr %name, i64 %length, ptr %arguments, ptr %results)
  br label %done
done:
  ret void
}
"""
