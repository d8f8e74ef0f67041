# SPDX-License-Identifier: Apache-2.0
"""The CPUs after the first. A payload that starts one defines `secondary(index)`, which runs there on a stack of
its own; when it returns that CPU is switched off. A CPU's index is its MPIDR_EL1.Aff0."""

from __future__ import annotations

from gz.arm64.insn import hvc
from gz.arm64.psci import AffinityState, Psci, PsciStatus
from gz.bits import Va, u64
from gz.metal import assembly, export, extern, panic
from gz.metal.layout import STACK_STRIDE


@extern
def secondary_start() -> Va: ...


def start_cpu(index: u64) -> None:
    status, _, _, _ = hvc(Psci.CPU_ON_64, index, u64(secondary_start()), index)
    if status != PsciStatus.SUCCESS:
        panic(f"CPU_ON of CPU {index} answered {0 - status}\n")


def is_there(index: u64) -> bool:
    state, _, _, _ = hvc(Psci.AFFINITY_INFO_64, index, 0)
    return state <= AffinityState.ON_PENDING


@export
def stop_cpu() -> None:
    hvc(Psci.CPU_OFF)


assembly(
    f"""
    .section .text.secondary, "ax"
    .global secondary_start
secondary_start:
    adrp x0, secondary_entry
    add x0, x0, :lo12:secondary_entry
    ret

secondary_entry:
    msr daifset, #15
    mov x19, x0
    bl enable_mmu
    adrp x0, __stacks_start
    add x1, x19, #1
    mov x2, #{STACK_STRIDE}
    madd x0, x1, x2, x0
    mov sp, x0
    mov x29, xzr
    mov x30, xzr
    mov x0, x19
    bl secondary
    bl stop_cpu
    b .
"""
)
