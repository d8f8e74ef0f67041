# SPDX-License-Identifier: Apache-2.0
"""RUN of /dev/gzvm, compiled into the driver's library beside `gz.driver.call`. Nothing in the host imports this
module."""

from __future__ import annotations

from gz.abi.device import RUN
from gz.abi.run import RunPage
from gz.arm64.insn import svc
from gz.bits import i64, u64
from gz.driver.kvm_run import IOCTL
from gz.metal import address, export


@export
def gzvm_run(vcpu: u64, page: RunPage) -> i64:
    """Runs the vCPU behind the file `vcpu` until there is something for the VMM: gives an ExitReason, or a negative
    errno. The driver works on a copy of the page and writes it back."""
    result, _, _, _ = svc(IOCTL, vcpu, RUN, u64(address(page)))
    status = i64(result)
    return status if status != 0 else i64(page.exit_reason)
