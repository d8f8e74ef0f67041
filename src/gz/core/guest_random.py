# SPDX-License-Identifier: Apache-2.0
"""Random numbers for guests (Arm TRNG firmware interface 1.0, DEN0098): the CPU's own or none."""

from __future__ import annotations

from enum import IntEnum
from uuid import UUID

from gz.abi.guest import uid_words
from gz.arm64.features import ID_AA64ISAR0_EL1
from gz.arm64.smccc import Trng
from gz.arm64.sysreg import sysreg
from gz.bits import enumeration, i64, u32, u64
from gz.core.conduit import answer, argument
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu
from gz.metal import inline

_VERSION_1_0 = 0x1_0000
_UUID = uid_words(UUID("2f0d4b9c-6a51-4d5e-9c37-0d6e1c8f5b24"))
_TRIES = 16
_RESULTS = 3  # registers; the lowest bits lie in the last one


@enumeration(i64)
class TrngStatus(IntEnum):
    SUCCESS = 0
    NOT_SUPPORTED = -1
    INVALID_PARAMETERS = -2
    NO_ENTROPY = -3


@inline
def available() -> bool:
    return ID_AA64ISAR0_EL1(sysreg.ID_AA64ISAR0_EL1).RNDR != 0


def version(vcpu: Vcpu) -> Outcome:
    return answer(vcpu, _VERSION_1_0 if available() else i64(TrngStatus.NOT_SUPPORTED))


def features(vcpu: Vcpu) -> Outcome:
    function = u32(argument(vcpu, 1))
    ours = Trng.VERSION <= function <= Trng.RND32 or function == Trng.RND64
    offered = available() and ours
    return answer(vcpu, TrngStatus.SUCCESS if offered else TrngStatus.NOT_SUPPORTED)


def uuid(vcpu: Vcpu) -> Outcome:
    if not available():
        return answer(vcpu, TrngStatus.NOT_SUPPORTED)
    x = vcpu.context.x
    x[0] = _UUID[0]
    x[1] = _UUID[1]
    x[2] = _UUID[2]
    x[3] = _UUID[3]
    return Outcome.RESUME


def rnd32(vcpu: Vcpu) -> Outcome:
    return answer(vcpu, _fill(vcpu, 32))


def rnd64(vcpu: Vcpu) -> Outcome:
    return answer(vcpu, _fill(vcpu, 64))


def _fill(vcpu: Vcpu, width: u64) -> i64:
    """x1 bits, at most three registers of `width` bits; the bits above them are zero."""
    left = argument(vcpu, 1)
    if not available():
        return TrngStatus.NOT_SUPPORTED
    if left == 0 or left > _RESULTS * width:
        return TrngStatus.INVALID_PARAMETERS
    x = vcpu.context.x
    for i in range(_RESULTS):
        bits = min(left, width)
        left -= bits
        value: u64 = 0
        if bits != 0:
            value = random()
            if value == 0:
                return TrngStatus.NO_ENTROPY
            value >>= 64 - bits
        x[_RESULTS - i] = value
    return TrngStatus.SUCCESS


def random() -> u64:
    """RNDR is 0 when it fails (DDI 0487, RNDR); it may do better the next time."""
    for _ in range(_TRIES):
        value = sysreg.RNDR
        if value != 0:
            return value
    return 0
