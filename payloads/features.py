# SPDX-License-Identifier: Apache-2.0
"""What the ID registers offer is there: for each feature with an instruction of its own, one that must not be undefined
or trap.  A feature that is offered in vain is a FAIL, one that is not offered a SKIP.
"""

from __future__ import annotations

from gz.arm64.features import (
    ID_AA64ISAR0_EL1,
    ID_AA64ISAR1_EL1,
    ID_AA64ISAR2_EL1,
    ID_AA64MMFR1_EL1,
    ID_AA64MMFR2_EL1,
    ID_AA64PFR0_EL1,
    ID_AA64PFR1_EL1,
    ID_AA64ZFR0_EL1,
)
from gz.arm64.insn import isb
from gz.arm64.registers import CPACR_EL1, SCTLR_EL1
from gz.arm64.sysreg import TABLE, sysreg
from gz.bits import Array, Register, Struct, Va, array, storage, table, u8, u32, u64
from gz.metal import address, assembly, export, extern, log, peek32, unroll
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.slot import run

_MRS_X0 = 0xD520_0000
_NOT_OF_ARMV8 = 15  # of PFR0's FP and AdvSIMD

#: Register, field, the least it says, an instruction; x0 is the address of memory, the others anything.
FEATURES: tuple[tuple[type[Register], str, int, str], ...] = (
    (ID_AA64PFR0_EL1, "FP", 0, "fadd d0, d1, d2"),
    (ID_AA64PFR0_EL1, "FP", 1, "fadd h0, h1, h2"),
    (ID_AA64PFR0_EL1, "AdvSIMD", 0, "add v0.4s, v1.4s, v2.4s"),
    (ID_AA64PFR0_EL1, "AdvSIMD", 1, "fadd v0.8h, v1.8h, v2.8h"),
    (ID_AA64PFR0_EL1, "SVE", 1, "add z0.s, z1.s, z2.s"),
    (ID_AA64PFR0_EL1, "DIT", 1, "msr dit, #1"),
    (ID_AA64PFR1_EL1, "SSBS", 2, "msr ssbs, #1"),
    (ID_AA64ZFR0_EL1, "SVEver", 1, "sqrdmlah z0.s, z1.s, z2.s"),
    (ID_AA64ZFR0_EL1, "AES", 1, "aese z0.b, z0.b, z1.b"),
    (ID_AA64ZFR0_EL1, "AES", 2, "pmullb z0.q, z1.d, z2.d"),
    (ID_AA64ZFR0_EL1, "BitPerm", 1, "bdep z0.s, z1.s, z2.s"),
    (ID_AA64ZFR0_EL1, "BF16", 1, "bfdot z0.s, z1.h, z2.h"),
    (ID_AA64ZFR0_EL1, "SHA3", 1, "rax1 z0.d, z1.d, z2.d"),
    (ID_AA64ZFR0_EL1, "SM4", 1, "sm4e z0.s, z0.s, z1.s"),
    (ID_AA64ZFR0_EL1, "I8MM", 1, "smmla z0.s, z1.b, z2.b"),
    (ID_AA64ZFR0_EL1, "F32MM", 1, "fmmla z0.s, z1.s, z2.s"),
    (ID_AA64ZFR0_EL1, "F64MM", 1, "fmmla z0.d, z1.d, z2.d"),
    (ID_AA64ISAR0_EL1, "AES", 1, "aese v0.16b, v1.16b"),
    (ID_AA64ISAR0_EL1, "AES", 2, "pmull v0.1q, v1.1d, v2.1d"),
    (ID_AA64ISAR0_EL1, "SHA1", 1, "sha1h s0, s1"),
    (ID_AA64ISAR0_EL1, "SHA2", 1, "sha256su0 v0.4s, v1.4s"),
    (ID_AA64ISAR0_EL1, "SHA2", 2, "sha512su0 v0.2d, v1.2d"),
    (ID_AA64ISAR0_EL1, "CRC32", 1, "crc32cx w1, w2, x3"),
    (ID_AA64ISAR0_EL1, "Atomic", 2, "ldaddal x1, x2, [x0]"),
    (ID_AA64ISAR0_EL1, "RDM", 1, "sqrdmlah v0.4s, v1.4s, v2.4s"),
    (ID_AA64ISAR0_EL1, "SHA3", 1, "eor3 v0.16b, v1.16b, v2.16b, v3.16b"),
    (ID_AA64ISAR0_EL1, "SM3", 1, "sm3partw1 v0.4s, v1.4s, v2.4s"),
    (ID_AA64ISAR0_EL1, "SM4", 1, "sm4e v0.4s, v1.4s"),
    (ID_AA64ISAR0_EL1, "DP", 1, "sdot v0.4s, v1.16b, v2.16b"),
    (ID_AA64ISAR0_EL1, "FHM", 1, "fmlal v0.4s, v1.4h, v2.4h"),
    (ID_AA64ISAR0_EL1, "TS", 1, "cfinv"),
    (ID_AA64ISAR0_EL1, "TS", 2, "axflag"),
    (ID_AA64ISAR0_EL1, "TLB", 1, "tlbi vae1os, x1"),
    (ID_AA64ISAR0_EL1, "TLB", 2, "tlbi rvae1is, x1"),
    (ID_AA64ISAR0_EL1, "RNDR", 1, "mrs x1, rndr"),
    (ID_AA64ISAR1_EL1, "DPB", 1, "dc cvap, x0"),
    (ID_AA64ISAR1_EL1, "DPB", 2, "dc cvadp, x0"),
    (ID_AA64ISAR1_EL1, "APA", 1, "pacia x1, x2"),
    (ID_AA64ISAR1_EL1, "API", 1, "pacdb x1, x2"),
    (ID_AA64ISAR1_EL1, "GPA", 1, "pacga x1, x2, x3"),
    (ID_AA64ISAR1_EL1, "GPI", 1, "pacga x1, x2, x3"),
    (ID_AA64ISAR1_EL1, "JSCVT", 1, "fjcvtzs w1, d0"),
    (ID_AA64ISAR1_EL1, "FCMA", 1, "fcadd v0.4s, v1.4s, v2.4s, #90"),
    (ID_AA64ISAR1_EL1, "LRCPC", 1, "ldapr x1, [x0]"),
    (ID_AA64ISAR1_EL1, "LRCPC", 2, "stlur x1, [x0, #8]"),
    (ID_AA64ISAR1_EL1, "FRINTTS", 1, "frint32z d0, d1"),
    (ID_AA64ISAR1_EL1, "SB", 1, "sb"),
    (ID_AA64ISAR1_EL1, "SPECRES", 1, "cfp rctx, x1"),
    (ID_AA64ISAR1_EL1, "BF16", 1, "bfdot v0.4s, v1.8h, v2.8h"),
    (ID_AA64ISAR1_EL1, "I8MM", 1, "smmla v0.4s, v1.16b, v2.16b"),
    (ID_AA64ISAR2_EL1, "CSSC", 1, "abs x1, x2"),
    (ID_AA64MMFR1_EL1, "PAN", 1, "msr pan, #0"),
    (ID_AA64MMFR1_EL1, "PAN", 2, "at s1e1rp, x0"),
    (ID_AA64MMFR2_EL1, "UAO", 1, "msr uao, #0"),
)
_LINES = "\n".join(f"    {instruction}" for *_, instruction in FEATURES)

assembly(
    f"""
    .section .rodata.features, "a"
    .arch armv8.7-a+sve2+sve2-aes+sve2-sha3+sve2-sm4+sve2-bitperm+f32mm+f64mm+bf16+i8mm+fp16fml+sha3+sm4+rng+cssc
    .balign 4
features:
{_LINES}

    .section .text.features, "ax"
    .global features_start
    .type features_start, %function
features_start:
    adrp x0, features
    add x0, x0, :lo12:features
    ret
"""
)


@extern
def features_start() -> Va: ...


def _read(kind: type[Register]) -> int:
    register = TABLE[kind.__name__]
    return _MRS_X0 | register.op0 << 19 | register.crn << 12 | register.crm << 8 | register.op2 << 5


_IDENTITIES = table(u32, [_read(kind) for kind, *_ in FEATURES])
_LOW = table(u8, [kind.FIELDS[name].low for kind, name, *_ in FEATURES])
_LEAST = table(u8, [least for _, _, least, _ in FEATURES])


class Memory(Struct, align=64):
    bytes: Array[u8] = array(64)


MEMORY = storage(Memory)


def offered(index: u32) -> bool:
    value, _ = run(_IDENTITIES[index], 0)
    version = value >> _LOW[index] & 15
    return version != _NOT_OF_ARMV8 and version >= _LEAST[index]


@export
def payload(tree: Va) -> None:
    exceptions.expect()
    sysreg.CPACR_EL1 = CPACR_EL1(FPEN=3, ZEN=3)
    sysreg.SCTLR_EL1 = SCTLR_EL1(sysreg.SCTLR_EL1).replace(EnIA=1, EnDB=1)
    isb()
    at = u64(address(MEMORY))
    for i, row in unroll(tuple(enumerate(FEATURES))):
        if not offered(i):
            log(f"SKIP {row[3]}")
        else:
            _, esr = run(peek32(features_start() + 4 * i), at)
            if esr == 0:
                log(f"PASS {row[3]}")
            else:
                log(f"FAIL {row[3]}: {esr:#x}")
