# SPDX-License-Identifier: Apache-2.0
"""Checks of exceptions at EL1 and of new code: the ground of kvm-unit-tests' selftest and cache."""

from __future__ import annotations

from gz.arm64.syndrome import ESR_EL2, ExceptionClass
from gz.bits import u32, u64
from payloads import exceptions
from payloads.checks import verdict
from payloads.slot import run

_MRS_SCTLR_EL2 = 0xD53C_1000
_SVC_123 = 0xD400_0F61
_MOVZ_X0 = 0xD280_0000  # the value from bit 5 on
_VALUE = 0xABCD
_ROUNDS = 512


def undefined() -> u32:
    """EL2's registers are not there, and x0 is as before."""
    exceptions.expect()
    value, esr = run(_MRS_SCTLR_EL2, _VALUE)
    return verdict(value == _VALUE and esr != 0 and ESR_EL2(esr).EC == ExceptionClass.UNKNOWN)


def supervisor_call() -> u32:
    """ELR is behind the instruction."""
    exceptions.expect()
    value, esr = run(_SVC_123, _VALUE)
    return verdict(value == _VALUE and ESR_EL2(esr).EC == ExceptionClass.SVC64 and ESR_EL2(esr).ISS == 123)


def new_code() -> u32:
    """What was cleaned and invalidated is what is run."""
    holds = True
    for i in range(_ROUNDS):
        value, esr = run(u32(_MOVZ_X0 | i << 5), 0)
        if value != u64(i) or esr != 0:
            holds = False
    return verdict(holds)


CHECKS = (
    ("undefined instruction", undefined),
    ("supervisor call", supervisor_call),
    ("new code", new_code),
)
