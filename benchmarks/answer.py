# SPDX-License-Identifier: Apache-2.0
"""The driver's RUN with the shortest VMM there can be: reads of the first virtio device are answered at once.

With it in the driver's library a guest's round trip to user space and back is the core's part of it."""

from __future__ import annotations

from gz.abi.exits import ExitReason
from gz.abi.run import RunPage
from gz.arm64.insn import doorbell
from gz.bits import Va, u64
from gz.driver.call import RUN
from gz.metal import export, read_once
from gz.vmm.maps import VIRT

VIRTIO_MAGIC = 0x7472_6976  # "virt" (VIRTIO 1.3, 4.2.2)


@export
def doorbell_run(page: Va, vcpu: u64, run: RunPage) -> u64:
    """As gz.driver.call.doorbell_run, but for those reads."""
    while True:
        _, reason, _, _ = doorbell(page, RUN, vcpu)
        if reason == ExitReason.MMIO and run.mmio.phys_addr == VIRT.virtio and run.mmio.is_write == 0:
            run.mmio.data = VIRTIO_MAGIC
            continue
        if reason != ExitReason.IRQ and reason != ExitReason.GZ:
            return reason
        if read_once(run.immediate_exit) != 0:
            return reason
