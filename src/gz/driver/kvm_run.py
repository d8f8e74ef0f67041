# SPDX-License-Identifier: Apache-2.0
"""KVM_RUN, compiled into the driver's library beside `gz.driver.call`.

KVM's run page differs from gzvm's, which the VMM reads: accesses to devices, the frequent exits, are carried
over here, all other ones by `gz.driver.kvm`. Nothing in the host imports this module."""

from __future__ import annotations

import errno

from gz.abi.exits import ExitReason
from gz.abi.kvm import KvmExit, KvmRequest, KvmRun
from gz.abi.run import RunPage
from gz.arm64.insn import svc
from gz.bits import i64, u64
from gz.metal import export, inline, read_once

IOCTL = 29
"""Number of ioctl(2) (Linux, asm-generic/unistd.h)."""
RUN = int(KvmRequest.RUN)
EINTR = errno.EINTR


@export
def kvm_run(vcpu: u64, run: KvmRun, page: RunPage) -> i64:
    """Runs the vCPU behind the file `vcpu` until there is something for the driver: gives ExitReason.MMIO
    with the access in `page`, or a KvmExit, or a negative errno (-EINTR only after immediate_exit)."""
    answer(run, page)
    while True:
        result, _, _, _ = svc(IOCTL, vcpu, RUN)
        status = i64(result)
        if status != -EINTR or read_once(run.immediate_exit) != 0:
            return outcome(status, run, page)


@inline
def answer(run: KvmRun, page: RunPage) -> None:
    """What the VMM gave for the read that it was asked to do."""
    if run.exit_reason == KvmExit.MMIO:
        run.mmio.data = page.mmio.data


@inline
def outcome(status: i64, run: KvmRun, page: RunPage) -> i64:
    if status < 0:
        return status
    if run.exit_reason != KvmExit.MMIO:
        return i64(run.exit_reason)
    page.mmio.phys_addr = run.mmio.phys_addr
    page.mmio.data = run.mmio.data
    page.mmio.length = u64(run.mmio.length)
    page.mmio.is_write = run.mmio.is_write
    return i64(ExitReason.MMIO)
