# SPDX-License-Identifier: Apache-2.0
"""The driver's RUN with the shortest VMM there can be: reads of the first virtio device are answered at once.

With it in the driver's library a guest's round trip to user space and back is the hypervisor's part of it."""

from __future__ import annotations

from gz.abi.exits import ExitReason
from gz.abi.kvm import KvmExit, KvmRun
from gz.abi.run import RunPage
from gz.arm64.insn import svc
from gz.bits import i64, u64
from gz.driver import kvm_run as kvm
from gz.driver.call import run_on
from gz.driver.shared import Entry
from gz.metal import export, read_once
from gz.vmm.maps import VIRT

VIRTIO_MAGIC = 0x7472_6976  # "virt" (VIRTIO 1.3, 4.2.2)


@export
def doorbell_run(entry: Entry) -> u64:
    """As gz.driver.call.doorbell_run, but for those reads."""
    run = entry.run
    while True:
        reason = run_on(entry)
        if reason != ExitReason.MMIO or run.mmio.phys_addr != VIRT.virtio or run.mmio.is_write != 0:
            return reason
        run.mmio.data = VIRTIO_MAGIC


@export
def kvm_run(vcpu: u64, run: KvmRun, page: RunPage) -> i64:
    """As gz.driver.kvm_run.kvm_run, but for those reads."""
    kvm.answer(run, page)
    while True:
        result, _, _, _ = svc(kvm.IOCTL, vcpu, kvm.RUN)
        status = i64(result)
        access = status == 0 and run.exit_reason == KvmExit.MMIO
        if access and run.mmio.phys_addr == VIRT.virtio and run.mmio.is_write == 0:
            run.mmio.data = VIRTIO_MAGIC
            continue
        if status != -kvm.EINTR or read_once(run.immediate_exit) != 0:
            return kvm.outcome(status, run, page)
