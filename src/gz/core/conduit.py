# SPDX-License-Identifier: Apache-2.0
"""Arguments and answers of a guest's call as the SMC calling convention has them (DEN0028 2.6, 3.1)."""

from __future__ import annotations

from gz.arm64.smccc import FunctionId
from gz.bits import i64, u32, u64
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu
from gz.metal import inline


@inline
def answer(vcpu: Vcpu, status: i64) -> Outcome:
    """x0 in the width of the call."""
    x = vcpu.context.x
    if FunctionId(u32(x[0])).SMC64 != 0:
        x[0] = u64(status)
    else:
        x[0] = u64(u32(status))
    return Outcome.RESUME


@inline
def argument(vcpu: Vcpu, number: u64) -> u64:
    """x1 to x7; of a 32-bit call only the lower halves count (DEN0028 2.6)."""
    x = vcpu.context.x
    if FunctionId(u32(x[0])).SMC64 != 0:
        return x[number]
    return x[number] & 0xFFFF_FFFF
