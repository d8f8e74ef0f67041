# SPDX-License-Identifier: Apache-2.0
"""AArch32 at EL0, which a hypervisor carries instructions out for as well: short ones, and those of an IT block."""

from __future__ import annotations

from gz.arm64.descriptors import GIGABYTE_SHIFT
from gz.arm64.features import ID_AA64PFR0_EL1
from gz.arm64.gic import Gicd
from gz.arm64.insn import isb
from gz.arm64.registers import SCTLR_EL1, SPSR
from gz.arm64.syndrome import ESR_EL2, ExceptionClass
from gz.arm64.sysreg import sysreg
from gz.bits import Va, function_table, u32, u64
from gz.metal import assembly, export, extern, log, unroll
from gz.vmm.maps import VIRT
from payloads import cores, exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.checks import PASS, Check, verdict
from payloads.el0 import DEVICES, PROGRAM, at_el0, map_gigabyte
from payloads.gic_interface import CONTROL, PRIORITY, SPI, distributor, find, finish, open_interface, send, take

_PROGRAM, _DEVICES = 3, 2  # gigabytes, where 32 bits reach
_A32 = SPSR(AArch32=1, A=1, I=1, F=1)
_T32 = _A32 | 1 << 5
_COUNT = 6
_BOTH_ARCHITECTURES = 2  # ID_AA64PFR0_EL1.EL0

#: r0 and r1 are devices' registers, r5 counts, r3 is what the IT block does.
_SHORT = (
    0x2300,  # movs r3, #0
    0x2500,  # movs r5, #0
    0xBF30,  # wfi
    0x3501,  # adds r5, #1
    0x680C,  # ldr r4, [r1]
    0x3501,
    0x600C,  # str r4, [r1]
    0x3501,
    0xF8D0,  # ldr.w r4, [r0]
    0x4000,
    0x3501,
    0x780E,  # ldrb r6, [r1]
    0x3501,
    0x4280,  # cmp r0, r0
    0xBF0A,  # itet eq
    0x6802,  # ldreq r2, [r0]
    0x3301,  # addne r3, #1
    0x3302,  # addeq r3, #2
    0xBF0A,
    0x680C,  # ldreq r4, [r1]
    0x3304,  # addne r3, #4
    0x3308,  # addeq r3, #8
    0x3501,
    0x021B,  # lsls r3, r3, #8
    0x1958,  # adds r0, r3, r5
    0xDF00,  # svc #0
)
_LONG = (
    0xE3A0_5000,  # mov r5, #0
    0xE320_F003,  # wfi
    0xE285_5001,  # add r5, r5, #1
    0xE591_4000,  # ldr r4, [r1]
    0xE285_5001,
    0xE581_4000,  # str r4, [r1]
    0xE285_5001,
    0xE590_4000,  # ldr r4, [r0]
    0xE285_5001,
    0xE5D1_6000,  # ldrb r6, [r1]
    0xE285_5001,
    0xE150_0000,  # cmp r0, r0
    0x1590_4000,  # ldrne r4, [r0]
    0x0285_5001,  # addeq r5, r5, #1
    0xE1A0_0005,  # mov r0, r5
    0xEF00_0000,  # svc #0
)
_SIGNED = (
    0x2300,
    0x56C0,  # ldrsb r0, [r0, r3]
    0xDF00,
)

assembly(
    f"""
    .section .rodata.narrow, "a"
    .balign 4
    .global narrow_short
narrow_short:
    .hword {", ".join(map(hex, _SHORT))}
    .balign 4
    .global narrow_long
narrow_long:
    .word {", ".join(map(hex, _LONG))}
    .global narrow_signed
narrow_signed:
    .hword {", ".join(map(hex, _SIGNED))}

    .section .text.narrow, "ax"
    .global short_address
    .type short_address, %function
short_address:
    adrp x0, narrow_short
    add x0, x0, :lo12:narrow_short
    ret
    .global long_address
    .type long_address, %function
long_address:
    adrp x0, narrow_long
    add x0, x0, :lo12:narrow_long
    ret
    .global signed_address
    .type signed_address, %function
signed_address:
    adrp x0, narrow_signed
    add x0, x0, :lo12:narrow_signed
    ret
"""
)


@extern
def short_address() -> Va: ...


@extern
def long_address() -> Va: ...


@extern
def signed_address() -> Va: ...


def moved(at: u64, gigabyte: u64) -> u64:
    return gigabyte << GIGABYTE_SHIFT | at & ((1 << GIGABYTE_SHIFT) - 1)


def run(program: Va, pstate: u64, register: u64) -> tuple[u64, bool]:
    """r0, and whether its own call ended it; an interrupt is pending and masked for its WFI."""
    send(1)
    controller = moved(VIRT.gicd + register, _DEVICES)
    result = at_el0(moved(u64(program), _PROGRAM), pstate, controller, moved(VIRT.virtio, _DEVICES))
    ended = ESR_EL2(sysreg.ESR_EL1).EC == ExceptionClass.SVC32
    return result, finish(take()) == 1 and ended


def short() -> u32:
    result, ended = run(short_address(), _T32, Gicd.offset("IIDR"))
    return verdict(ended and result == 0xA00 | _COUNT)


def long() -> u32:
    result, ended = run(long_address(), _A32, Gicd.offset("IIDR"))
    return verdict(ended and result == _COUNT)


def signed() -> u32:
    """Into the lower half of a register."""
    distributor().IPRIORITYR[SPI] = PRIORITY
    result, ended = run(signed_address(), _T32, Gicd.offset("IPRIORITYR") + SPI)
    return verdict(ended and result == (PRIORITY ^ 0x80) - 0x80 & 0xFFFF_FFFF)


_NAMED: tuple[tuple[str, Check], ...] = (("T32", short), ("A32", long), ("sign", signed))
_CHECKS = function_table(Check, [check for _, check in _NAMED])


@export
def job(cpu: u64, number: u64) -> u64:
    return 0


@export
def payload(tree: Va) -> None:
    if ID_AA64PFR0_EL1(sysreg.ID_AA64PFR0_EL1).EL0 != _BOTH_ARCHITECTURES:
        log("SKIP no AArch32")
        return
    find(tree)
    distributor().CTLR = CONTROL
    open_interface(0)
    map_gigabyte(_PROGRAM, PROGRAM, u64(short_address()))
    map_gigabyte(_DEVICES, DEVICES, 0)
    sysreg.SCTLR_EL1 = SCTLR_EL1(sysreg.SCTLR_EL1).replace(nTWI=1, nTWE=1)
    isb()
    for i, named in unroll(tuple(enumerate(_NAMED))):
        if _CHECKS[i]() == PASS:
            log(f"PASS {named[0]}")
        else:
            log(f"FAIL {named[0]}")
