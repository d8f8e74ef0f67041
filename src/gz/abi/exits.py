# SPDX-License-Identifier: Apache-2.0
"""Why RUN came back: x1 of the call and ``RunPage.exit_reason``."""

from __future__ import annotations

from enum import IntEnum

from gz.bits import enumeration, u32


@enumeration(u32)
class ExitReason(IntEnum):
    UNKNOWN = 0x9292_0000
    MMIO = 0x9292_0001
    HYPERCALL = 0x9292_0002
    IRQ = 0x9292_0003
    """A physical interrupt is for the host; the driver runs the vCPU again at once."""
    EXCEPTION = 0x9292_0004
    """Demand paging (:attr:`ExceptionCode.PAGE_FAULT`): the driver maps the page or block and runs again."""
    DEBUG = 0x9292_0005
    FAIL_ENTRY = 0x9292_0006
    INTERNAL_ERROR = 0x9292_0007
    SYSTEM_EVENT = 0x9292_0008
    SHUTDOWN = 0x9292_0009
    GZ = 0x9292_000A
    """Nothing for the host to do; the driver runs the vCPU again at once."""
    IDLE = 0x9292_000B
    """Waits for an interrupt; only after capability IDLE was enabled. See ``HwState.vtimer_delay``."""
    IPI = 0x9292_000D
    """Wake the sleeping vCPUs of this VM; only after capability IDLE was enabled."""


@enumeration(u32)
class ExceptionCode(IntEnum):
    """After PAGE_FAULT: ours, and only of what was asked for (:class:`Watch`). The guest has had its exception."""

    UNKNOWN = 0
    PAGE_FAULT = 1
    UNDEFINED = 2
    ABORT = 3
    HVC = 4
    SMC = 5
    SERROR = 6


class Watch(IntEnum):
    """x3 of capability WATCH_EXCEPTIONS: a set of these."""

    UNDEFINED = 1 << 0
    """Of instructions that trap to the core."""
    ABORT = 1 << 1
    """Synchronous aborts that the core injects."""
    BREAKPOINT = 1 << 2
    """BRK: exit DEBUG. Not while the guest has enabled debug exceptions itself."""
    HVC = 1 << 3
    """Calls that the core answers."""
    SMC = 1 << 4
    SERROR = 1 << 5


@enumeration(u32)
class SystemEvent(IntEnum):
    SHUTDOWN = 1
    RESET = 2
    CRASH = 3
    WAKEUP = 4
    SUSPEND = 5
    SEV_TERM = 6
    S2IDLE = 7
