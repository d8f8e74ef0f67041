# SPDX-License-Identifier: Apache-2.0
"""A guest that touches device windows with every kind of access, at every offset of a few strides.

What an instruction's syndrome does not describe (pairs, vectors, write-back) cannot be emulated: the guest gets an
abort. Prints for each window how many accesses came through and how many were aborts or other exceptions.
"""

from __future__ import annotations

from gz.arm64.syndrome import ESR_EL2, DataAbort, ExceptionClass, FaultStatus
from gz.bits import Struct, Va, storage, u32, u64
from gz.metal import export, log, unroll
from gz.vmm.maps import VIRT
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.accesses import COUNT, access, allow

WINDOW = 0x1_0000
_STRIDE = 0x208 + 1
_WINDOWS = (
    ("distributor", VIRT.gicd),
    ("redistributor", VIRT.redistributors),
    ("private interrupts", VIRT.redistributors + WINDOW),
    ("VMM", VIRT.virtio),
    ("nothing", VIRT.virtio + 0x100_0000),
)


class Outcomes(Struct):
    through: u32
    aborts: u32
    exceptions: u32


OUTCOMES = storage(Outcomes)


def touch(window: u64) -> None:
    OUTCOMES.through = 0
    OUTCOMES.aborts = 0
    OUTCOMES.exceptions = 0
    for offset in range(0, WINDOW, _STRIDE):
        for index in range(COUNT):
            esr = ESR_EL2(access(u32(index), window + offset))
            if esr == 0:
                OUTCOMES.through += 1
            elif esr.EC == ExceptionClass.DATA_ABORT_SAME and DataAbort(esr.ISS).DFSC == FaultStatus.EXTERNAL:
                OUTCOMES.aborts += 1
            else:
                OUTCOMES.exceptions += 1


@export
def payload(tree: Va) -> None:
    allow()
    exceptions.expect()
    for name, base in unroll(_WINDOWS):
        touch(base)
        log(f"{name}: {OUTCOMES.through} through, {OUTCOMES.aborts} aborts, {OUTCOMES.exceptions} exceptions")
    log("the guest lives")
