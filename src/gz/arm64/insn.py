# SPDX-License-Identifier: Apache-2.0
"""Instructions of the architecture as intrinsics: the only way from Python to them."""

# The body of an intrinsic is `...` for pyright, also behind a docstring.
# ruff: noqa: PIE790

from __future__ import annotations

from gz.arm64.operations import AT, BARRIERS, DC, HINTS, IC, TLBI
from gz.bits.integers import Va, u64
from gz.bits.intrinsic import intrinsic
from gz.bits.sysreg import SysReg

Results = tuple[u64, u64, u64, u64]


@intrinsic("sysreg_read")
def read(register: SysReg) -> u64:
    """Read a system register that a table names."""
    ...


@intrinsic("sysreg_write")
def write(register: SysReg, value: u64) -> None:
    """Write a system register that a table names."""
    ...


@intrinsic("barrier", BARRIERS)
def dsb(domain: str) -> None:
    """Data synchronization barrier."""
    ...


@intrinsic("barrier", BARRIERS)
def dmb(domain: str) -> None:
    """Data memory barrier."""
    ...


@intrinsic("plain")
def isb() -> None:
    """Instruction synchronization barrier."""
    ...


@intrinsic("plain")
def wfi() -> None:
    """Wait for an interrupt."""
    ...


@intrinsic("plain")
def wfe() -> None:
    """Wait for an event."""
    ...


@intrinsic("plain")
def yield_() -> None:
    """Hint that another thread of execution may go first. The name without the underscore is Python's."""
    ...


@intrinsic("plain")
def sev() -> None:
    """Send an event to all CPUs."""
    ...


@intrinsic("barrier", HINTS)
def hint(name: str) -> None:
    """What CPUs that do not know it pass over."""
    ...


@intrinsic("sys", TLBI)
def tlbi(operation: str, value: u64 = 0) -> None:
    """TLB maintenance; `value` as the operation wants it (address >> 12, ASID, ...)."""
    ...


@intrinsic("sys", DC)
def dc(operation: str, address: Va) -> None:
    """Data cache maintenance by address or set and way."""
    ...


@intrinsic("sys", IC)
def ic(operation: str, address: Va = 0) -> None:
    """Instruction cache maintenance."""
    ...


@intrinsic("sys", AT)
def at(operation: str, address: Va) -> None:
    """Address translation; the answer is in PAR_EL1 after an isb()."""
    ...


@intrinsic("call")
def hvc(
    x0: u64 = 0, x1: u64 = 0, x2: u64 = 0, x3: u64 = 0, x4: u64 = 0, x5: u64 = 0, x6: u64 = 0, x7: u64 = 0
) -> Results:
    """Hypervisor call with x0-x7; gives x0-x3."""
    ...


@intrinsic("call")
def smc(
    x0: u64 = 0, x1: u64 = 0, x2: u64 = 0, x3: u64 = 0, x4: u64 = 0, x5: u64 = 0, x6: u64 = 0, x7: u64 = 0
) -> Results:
    """Secure monitor call with x0-x7; gives x0-x3."""
    ...


@intrinsic("call")
def doorbell(
    page: Va,
    x0: u64 = 0,
    x1: u64 = 0,
    x2: u64 = 0,
    x3: u64 = 0,
    x4: u64 = 0,
    x5: u64 = 0,
    x6: u64 = 0,
    x7: u64 = 0,
) -> Results:
    """The hypervisor call by one plain store to the doorbell page; gives x0-x3 (gz.abi.doorbell)."""
    ...


@intrinsic("call")
def svc(number: u64, x0: u64 = 0, x1: u64 = 0, x2: u64 = 0, x3: u64 = 0, x4: u64 = 0, x5: u64 = 0) -> Results:
    """A system call of Linux: `number` in x8; its result, or the negative errno, is in x0."""
    ...
