# SPDX-License-Identifier: Apache-2.0
"""What leaving a guest costs: average instructions of one round trip, from the guest's side.

Under QEMU with `-icount shift=0` an instruction is a nanosecond of virtual time, whatever the machine, so the
counter measures instructions. Each line is a name and a count, a few instructions of loop included; of two runs the
better one, for an interrupt of the host's may come into either. The operations are those of kvm-unit-tests'
micro-bench, which counts some 18 instructions more for each as it calls them by pointer; but for `id_register`,
`ipi_self`, `timer`, whose deadline has passed when it is set, and `ipi_other`, whose count is both CPUs' together:
the other one waits in a loop, and `yield` is where the emulator goes from one CPU to the other. That line is missing
where the guest has one CPU.
"""

from __future__ import annotations

from gz.arm64.gic import SPURIOUS, Gicd
from gz.arm64.insn import hvc, isb, yield_
from gz.arm64.psci import Psci
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Va, Window, at, u32, u64
from gz.metal import export, log, mmio, noinline
from gz.vmm.maps import VIRT
from payloads import exceptions, start  # noqa: F401 - parts of every payload
from payloads.interrupts import DISTRIBUTOR, enable, handled, send
from payloads.secondary import is_there, start_cpu

ROUNDS = 4096
USER_ROUNDS = 256
OTHER = 1
_NANOSECONDS = 1_000_000_000


class VirtioMmio(Window):
    """The first device of the machine: a register that every VMM serves itself."""

    MAGIC: u32 = at(0)


def now() -> u64:
    isb()
    ticks = sysreg.CNTVCT_EL0
    isb()
    return ticks


def average(begin: u64, rounds: u64) -> u64:
    """Nanoseconds per round since `begin`, rounded."""
    total = (now() - begin) * _NANOSECONDS
    divisor = sysreg.CNTFRQ_EL0 * rounds
    return (total + divisor // 2) // divisor


@noinline
def hvc_psci_version() -> u64:
    begin = now()
    for _ in range(ROUNDS):
        hvc(Psci.VERSION)
    return average(begin, ROUNDS)


@noinline
def id_register() -> u64:
    begin = now()
    for _ in range(ROUNDS):
        _ = sysreg.ID_AA64PFR0_EL1
    return average(begin, ROUNDS)


@noinline
def mmio_read_vgic() -> u64:
    distributor = mmio(Gicd, Va(DISTRIBUTOR))
    begin = now()
    for _ in range(ROUNDS):
        _ = distributor.IIDR
    return average(begin, ROUNDS)


@noinline
def mmio_read_user() -> u64:
    device = mmio(VirtioMmio, Va(VIRT.virtio))
    begin = now()
    for _ in range(USER_ROUNDS):
        _ = device.MAGIC
    return average(begin, USER_ROUNDS)


@noinline
def eoi() -> u64:
    begin = now()
    for _ in range(ROUNDS):
        sysreg.ICC_EOIR1_EL1 = SPURIOUS
    return average(begin, ROUNDS)


@noinline
def ipi_self() -> u64:
    begin = now()
    for _ in range(ROUNDS):
        before = handled(0)
        send(0)
        while handled(0) == before:
            pass
    return average(begin, ROUNDS)


def send_all(rounds: u64) -> u64:
    """SGIs to the other CPU, each when it has taken the one before; nanoseconds per round."""
    begin = now()
    for _ in range(rounds):
        before = handled(OTHER)
        send(OTHER)
        while handled(OTHER) == before:
            yield_()
    return average(begin, rounds)


@noinline
def ipi_other() -> u64:
    while handled(OTHER) == 0:  # its own first, sent when it was ready
        yield_()
    warm = send_all(ROUNDS)  # until the host runs both at a time
    cost = send_all(ROUNDS)
    return cost if cost < warm else warm


@export
def secondary(index: u64) -> None:
    enable()
    send(index)
    while True:
        yield_()


@noinline
def timer() -> u64:
    sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1, IMASK=1)
    begin = now()
    for _ in range(ROUNDS):
        before = handled(0)
        sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0
        sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
        isb()
        while handled(0) == before:
            pass
    return average(begin, ROUNDS)


@export
def payload(tree: Va) -> None:
    enable()
    log(f"hvc_psci_version {min(hvc_psci_version(), hvc_psci_version())}")
    log(f"id_register {min(id_register(), id_register())}")
    log(f"mmio_read_vgic {min(mmio_read_vgic(), mmio_read_vgic())}")
    log(f"mmio_read_user {mmio_read_user()}")
    log(f"eoi {min(eoi(), eoi())}")
    log(f"ipi_self {min(ipi_self(), ipi_self())}")
    log(f"timer {min(timer(), timer())}")
    if is_there(OTHER):
        start_cpu(OTHER)
        log(f"ipi_other {ipi_other()}")
