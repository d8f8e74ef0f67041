# SPDX-License-Identifier: Apache-2.0
"""A guest that has lost its vectors and needs them; its second vCPU does so at the same time."""

from __future__ import annotations

from gz.arm64.insn import isb
from gz.arm64.sysreg import sysreg
from gz.bits import Va, u64
from gz.metal import export, log
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.secondary import start_cpu
from payloads.slot import run

_NOWHERE = 0x7000_0000  # may be executed, but is no memory
_UNKNOWN = 0x0000_0000  # UDF


def fall() -> None:
    sysreg.VBAR_EL1 = _NOWHERE
    isb()
    run(_UNKNOWN, 0)
    log("still there")


@export
def secondary(cpu: u64) -> None:
    fall()


@export
def payload(tree: Va) -> None:
    start_cpu(1)
    fall()
