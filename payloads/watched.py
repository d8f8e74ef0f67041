# SPDX-License-Identifier: Apache-2.0
"""A guest that takes exceptions of every kind, and the host that asked to hear of them, in one image.

The guest says what it got, the host what it heard: it asks for nothing, for each kind alone, for all.  In the end the
guest has no vectors any more.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call
from gz.abi.capabilities import Capability
from gz.abi.exits import ExceptionCode, ExitReason, Watch
from gz.arm64.insn import hvc, isb, smc
from gz.arm64.psci import Psci
from gz.arm64.syndrome import ESR_EL2
from gz.arm64.sysreg import sysreg
from gz.bits import Va, u8, u32, u64
from gz.metal import export, log, panic, unroll
from gz.vmm.maps import VIRT
from payloads import exceptions, interrupts, machines, start  # noqa: F401 - parts of every payload
from payloads.console import put
from payloads.slot import run

_BRK = 0xD420_0000 | 0x123 << 5
_UNKNOWN = 0x0000_0000  # UDF
_MRS_LORID = 0xD538_A4E0  # mrs x0, LORID_EL1: of a feature that guests do not know, so it traps
_LOAD_PAIR = 0xA940_0000  # ldp x0, x0, [x0]: no syndrome for a device
_NOWHERE = 0x0100_0000  # no memory, no device
_NO_VECTORS = 0x7000_0000  # what may be executed, but is no memory
_GUEST = 0  # x0 of a guest

ALL = Watch.UNDEFINED | Watch.ABORT | Watch.BREAKPOINT | Watch.HVC | Watch.SMC | Watch.SERROR


def guest() -> None:
    exceptions.expect()
    _, esr = run(_BRK, 0)
    log(f"guest: brk {esr:#x}")
    _, esr = run(_UNKNOWN, 0)
    log(f"guest: udf {esr:#x}")
    _, esr = run(_MRS_LORID, 0)
    log(f"guest: mrs {esr:#x}")
    _, esr = run(_LOAD_PAIR, _NOWHERE)
    log(f"guest: ldp {esr:#x} {exceptions.EXPECTED.far:#x}")
    version, _, _, _ = hvc(Psci.VERSION)
    log(f"guest: hvc {version:#x}")
    version, _, _, _ = smc(Psci.VERSION)
    log(f"guest: smc {version:#x}")
    sysreg.VBAR_EL1 = _NO_VECTORS
    isb()
    run(_BRK, 0)


def told(code: u32) -> None:
    record = machines.run_page(0, 0).exception
    esr = ESR_EL2(record.error_code)
    if code == ExceptionCode.ABORT:
        log(f"host: exception {code}, class {esr.EC:#x}, at {record.fault_gpa:#x}")
    else:
        log(f"host: exception {code}, class {esr.EC:#x}")


def serve() -> bool:
    """Once round; False: the guest has come to its end."""
    reason = machines.run(0, 0)
    page = machines.run_page(0, 0)
    if reason == ExitReason.EXCEPTION:
        if page.exception.exception == ExceptionCode.PAGE_FAULT:
            machines.supply(0, 0)
        else:
            told(page.exception.exception)
    elif reason == ExitReason.DEBUG:
        log(f"host: debug {page.debug.syndrome:#x}")
    elif reason == ExitReason.MMIO:
        if page.mmio.is_write == 0:
            page.mmio.data = 0
        elif page.mmio.phys_addr == VIRT.uart:
            put(u8(page.mmio.data))
    elif reason == ExitReason.SYSTEM_EVENT:
        event = page.system_event
        esr = ESR_EL2(event.data[0])
        log(f"host: event {event.type} {event.ndata} class {esr.EC:#x} at {event.data[1]:#x} {event.data[2]:#x}")
        return False
    elif reason != ExitReason.IRQ and reason != ExitReason.GZ:
        panic(f"RUN came back with {reason:#x}")
    return True


def watch(kinds: u64) -> u64:
    """The status of the call."""
    status, _, _, _ = hvc(SMC64_BASE + Call.ENABLE_CAP, machines.HANDLES[0], Capability.WATCH_EXCEPTIONS, kinds)
    return 0 - status


@export
def payload(tree: Va) -> None:
    if tree == _GUEST:
        guest()
        return
    machines.open_tree(tree)
    for kinds in unroll((0, *map(int, Watch), ALL)):
        machines.create(0, _GUEST)
        log(f"host: watches {kinds:#x}: {watch(kinds)}, too much: {watch(ALL + 1)}")
        while serve():
            pass
        machines.destroy(0)
    log("the host lives")
