# SPDX-License-Identifier: Apache-2.0
"""A protected VM and its host in one: the guest fills memory with a secret and shows one page, the host tries to get
at the rest in every way, and looks again when the guest is gone.
"""

from __future__ import annotations

from gz.abi.calls import SMC64_BASE, Call
from gz.abi.exits import ExitReason
from gz.abi.guest import VendorCall
from gz.abi.memory import BLOCK_SIZE
from gz.abi.registers import PC
from gz.abi.run import PAGE_SIZE
from gz.arm64.insn import hvc
from gz.arm64.syndrome import ESR_EL2, DataAbort, ExceptionClass, FaultStatus
from gz.bits import Struct, Va, storage, u32, u64
from gz.metal import export, log, peek64, poke64, unroll
from gz.vmm.maps import VIRT
from payloads import exceptions, interrupts, protected, start  # noqa: F401 - parts of every payload
from payloads.accesses import COUNT, access, allow
from payloads.protected import BLOCKS, MEMORY

SECRET = 0x5EC2_E75E_C2E7_5EC2
ANSWER = 0xA45E_A45E_A45E_A45E
SHOWN = BLOCK_SIZE + 5 * PAGE_SIZE  # offset of the page that the guest shows
_WORD = 8


class Outcomes(Struct):
    aborts: u32
    exceptions: u32
    nothing: u32


outcomes = storage(Outcomes)


# The guest.


def guest() -> None:
    """Before the console is guarded nothing can be printed."""
    secret = VIRT.ram + BLOCK_SIZE
    shown = Va(VIRT.ram + SHOWN)
    for offset in range(0, BLOCK_SIZE, _WORD):
        poke64(Va(secret + offset), SECRET)
    guarded, _, _, _ = hvc(VendorCall.MMIO_GUARD_MAP, VIRT.uart, 0, 0)
    shared, count, _, _ = hvc(VendorCall.MEM_SHARE, u64(shown), 0, 0)
    log(f"guest: {guarded | shared} {count} page shown")
    answer = peek64(shown)
    poke64(shown, SECRET)
    changed: u64 = 0
    for offset in range(0, BLOCK_SIZE, _WORD):
        if peek64(Va(secret + offset)) != SECRET:
            changed += 1
    log(f"guest: answer {answer:#x}, {changed} words changed")


# The host.


def touch(at: u64) -> None:
    for index in range(COUNT):
        esr = ESR_EL2(access(u32(index), at))
        if esr == 0:
            outcomes.nothing += 1
        elif esr.EC == ExceptionClass.DATA_ABORT_SAME and DataAbort(esr.ISS).DFSC == FaultStatus.ALIGNMENT:
            outcomes.aborts += 1
        else:
            outcomes.exceptions += 1


def probe() -> None:
    """In every way, on what is private; then the shown page."""
    for offset in unroll((0, BLOCK_SIZE, SHOWN - PAGE_SIZE, SHOWN + PAGE_SIZE, BLOCKS * BLOCK_SIZE - PAGE_SIZE)):
        touch(MEMORY + offset)
    log(f"host: {outcomes.aborts} aborts, {outcomes.exceptions} exceptions, {outcomes.nothing} without effect")
    shown = Va(MEMORY + SHOWN)
    log(f"host: shown {peek64(shown):#x}")
    poke64(shown, ANSWER)


def host(tree: Va) -> None:
    protected.create(tree)
    reason = protected.enter()
    while reason != ExitReason.MMIO and protected.serve(reason):
        reason = protected.enter()
    probe()
    while protected.serve(reason):
        reason = protected.enter()
    read, _, _, _ = hvc(SMC64_BASE + Call.GET_ONE_REG, protected.life.vcpu, PC)
    if read == 0:
        log("host: registers of a protected VM can be read")
    log(f"host: {protected.destroy()} words left")


@export
def payload(tree: Va) -> None:
    if tree == 0:
        guest()
        return
    allow()
    exceptions.expect()
    host(tree)
