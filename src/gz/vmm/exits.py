# SPDX-License-Identifier: Apache-2.0
"""What the VMM does for each reason a vCPU leaves the guest. MMIO, the frequent one, is in `vcpu`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from gz.abi.exits import ExceptionCode, ExitReason, SystemEvent
from gz.abi.run import CRASH_DATA, RunPage

WATCHED: dict[int, str] = {
    ExceptionCode.UNDEFINED: "undefined instruction",
    ExceptionCode.ABORT: "abort",
    ExceptionCode.HVC: "HVC",
    ExceptionCode.SMC: "SMC",
    ExceptionCode.SERROR: "SError",
}


class Ending(Enum):
    """How a guest came to its end."""

    POWER_OFF = "powered off"
    RESET = "reset"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(frozen=True)
class End:
    ending: Ending
    why: str = ""
    """For people, one line; empty where the ending says it all."""


def _system_event(vcpu: int, page: RunPage) -> End | None:
    kind = page.system_event.type
    match kind:
        case SystemEvent.SHUTDOWN:
            return End(Ending.POWER_OFF)
        case SystemEvent.RESET:
            return End(Ending.RESET)
        case SystemEvent.CRASH:
            return End(Ending.FAILED, _crash(vcpu, page))
        case SystemEvent.WAKEUP | SystemEvent.SUSPEND | SystemEvent.S2IDLE:
            return None
        case _:
            return End(Ending.FAILED, f"vCPU {vcpu}: unknown system event {int(kind)}")


def _crash(vcpu: int, page: RunPage) -> str:
    data = page.system_event.data
    if page.system_event.ndata < CRASH_DATA:
        return "the guest reported a crash"
    esr, far, ipa, pc = (data[i] for i in range(CRASH_DATA))
    return f"vCPU {vcpu}: the guest crashed at PC {pc:#x}: ESR {esr:#x}, address {far:#x}, guest-physical {ipa:#x}"


def _shutdown(vcpu: int, page: RunPage) -> End:
    return End(Ending.POWER_OFF)


def _exception(vcpu: int, page: RunPage) -> End:
    record = page.exception
    return End(
        Ending.FAILED,
        f"vCPU {vcpu}: unserved exception {int(record.exception)} (error {record.error_code:#x})"
        f" at {record.fault_gpa:#x}",
    )


def _fail_entry(vcpu: int, page: RunPage) -> End:
    record = page.fail_entry
    return End(
        Ending.FAILED,
        f"vCPU {vcpu}: the core refused to enter it (reason {record.reason:#x}, CPU {record.cpu})",
    )


def _internal_error(vcpu: int, page: RunPage) -> End:
    record = page.internal
    words = " ".join(f"{record.data[i]:#x}" for i in range(min(record.ndata, len(record.data))))
    return End(Ending.FAILED, f"vCPU {vcpu}: internal error {record.suberror} of the core {words}".rstrip())


def _hypercall(vcpu: int, page: RunPage) -> None:
    """A call nobody here serves; the guest gets NOT_SUPPORTED (SMCCC 1.2, 5.2)."""
    page.hypercall.args[0] = (1 << 64) - 1


EXITS: dict[int, Callable[[int, RunPage], End | None]] = {
    ExitReason.SYSTEM_EVENT: _system_event,
    ExitReason.SHUTDOWN: _shutdown,
    ExitReason.EXCEPTION: _exception,
    ExitReason.FAIL_ENTRY: _fail_entry,
    ExitReason.INTERNAL_ERROR: _internal_error,
    ExitReason.HYPERCALL: _hypercall,
}


def watched(reason: int, vcpu: int, page: RunPage) -> str | None:
    """A line about an exception that the guest had as ever and the VMM asked to hear of (``Plan.watch``)."""
    if reason == ExitReason.DEBUG:
        return f"vCPU {vcpu}: breakpoint, ESR {page.debug.syndrome:#x}, at {page.debug.pc:#x}"
    if reason == ExitReason.EXCEPTION and page.exception.exception in WATCHED:
        record = page.exception
        return f"vCPU {vcpu}: {WATCHED[record.exception]}, ESR {record.error_code:#x}, at {record.fault_gpa:#x}"
    return None


def handle(reason: int, vcpu: int, page: RunPage, log: Callable[[str], object]) -> End | None:
    """None to run on, or how it ends."""
    line = watched(reason, vcpu, page)
    if line is not None:
        log(line)
        return None
    row = EXITS.get(reason)
    if row is None:
        return End(Ending.FAILED, f"vCPU {vcpu}: exit for an unknown reason {reason:#x}")
    return row(vcpu, page)
