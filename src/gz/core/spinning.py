# SPDX-License-Identifier: Apache-2.0
"""Guests that spin: WFE traps (HCR_EL2.TWE) while another vCPU of the VM waits for a CPU, which may hold the lock.

Once at most until the host takes the CPU by itself: a host that comes back at once loses one exit by it, and a guest
whose vCPUs all run never traps. Nothing ends a loop without WFE before the host's next interrupt does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.advance as advance
import gz.core.stolen_time as stolen_time
from gz.abi.exits import ExitReason
from gz.arm64.registers import HCR_EL2
from gz.arm64.sysreg import sysreg
from gz.core.outcome import Outcome
from gz.metal import cold, load_acquire

if TYPE_CHECKING:
    from gz.core.vcpu import Vcpu


@cold
def watch(vcpu: Vcpu) -> None:
    """At its entry, some vCPU of the VM waits."""
    if vcpu.yielded == 0:
        sysreg.HCR_EL2 = HCR_EL2(sysreg.HCR_EL2).replace(TWE=1)


@cold
def give_way(vcpu: Vcpu) -> Outcome:
    """A trapped WFE: done, and to the host if that still has another vCPU to run."""
    if load_acquire(vcpu.vm.waiting) == 0:
        sysreg.HCR_EL2 = HCR_EL2(sysreg.HCR_EL2).replace(TWE=0)
        return Outcome.RESUME
    advance.skip()
    stolen_time.stop(vcpu)
    vcpu.yielded = 1
    vcpu.exit = ExitReason.GZ
    return Outcome.LEAVE
