# SPDX-License-Identifier: Apache-2.0
"""The calls of a host that has made no mistake."""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE
from gz.arm64.insn import hvc
from gz.bits import u64
from gz.metal import panic


def call(index: u64, a: u64, b: u64, c: u64, d: u64, e: u64) -> u64:
    """A call that has to succeed; gives x1."""
    status, value, _, _ = hvc(SMC64_BASE + index, a, b, c, d, e)
    if status != 0:
        panic(f"call {index} answered {0 - status}\n")
    return value
