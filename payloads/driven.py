# SPDX-License-Identifier: Apache-2.0
"""The guest of payloads.driver: two vCPUs that need everything the driver's calls and exits are for.

It asks its VMM about itself and for interrupts at the registers of a `Desk`, checks what it gets, ends the first
life by a reset and the second one by switching off.
"""

from __future__ import annotations

from gz.abi.guest import KVM_UID_WORDS, PtpCounter, VendorCall
from gz.abi.run import PAGE_SIZE
from gz.arm64.gic import FRAME_SIZE, Gicd, GicrSgi
from gz.arm64.gic_interface import ICC_SGI1R_EL1
from gz.arm64.insn import hvc, isb, wfi
from gz.arm64.psci import AffinityState, Psci
from gz.arm64.smccc import NOT_SUPPORTED
from gz.arm64.sysreg import sysreg
from gz.arm64.timer import CNT_CTL
from gz.bits import Struct, Va, Window, at, storage, u32, u64, union
from gz.metal import assembly, extern, log, mmio, peek64, poke64
from gz.vmm.maps import VIRT
from payloads import interrupts

#: What `Desk.KIND` says.
ANSWERS_PTP, PAGES_ON_DEMAND, SECOND_LIFE = 1, 2, 4
DESK = VIRT.rtc
BELL = VIRT.virtio + 0x50
"""A store here is for an eventfd."""
SPI = 5
MAGIC = 0x600D_DE5C
HOLE = VIRT.ram + (2 << 20) + 9 * PAGE_SIZE
"""The page that the guest gives back."""
FRESH = 0x77
"""What the host has in the page that it gives instead."""

_IRQ_MASKED = 1 << 7  # DAIF.I
_SGI_MASK = 1 << interrupts.SGI
_SECOND = 1
_ROUNDS = 1000
_CLOSE = 10_000_000  # counter ticks
_SECRET = 0xC1C1_C1C1_C1C1_C1C1


class Desk(Window):
    """Registers of the VMM."""

    LOOK: u32 = at(0)
    """Reads as MAGIC: an exit, so that the VMM may run somebody else."""
    SPI: u32 = at(4)
    """This SPI once the guest waits."""
    KIND: u32 = at(8)
    WIDE: u64 = union(16)
    """Keeps what is written."""
    NARROW: u32 = union(16)


class Score(Struct):
    right: u32
    wrong: u32


SCORE = storage(Score)

assembly(
    f"""
    .section .text.second, "ax"
    .global second
    .type second, %function
second:
    mov x9, #0xf0
    msr icc_pmr_el1, x9
    mov x9, #1
    msr icc_igrpen1_el1, x9
    isb
1:  wfi
    mrs x9, isr_el1
    cbz x9, 1b
    ldr w0, ={int(Psci.CPU_OFF):#x}
    hvc #0
    b .
    .ltorg

    .global second_address
    .type second_address, %function
second_address:
    adrp x0, second
    add x0, x0, :lo12:second
    ret
"""
)


@extern
def second_address() -> Va: ...


def check(number: u32, right: bool) -> None:
    if right:
        SCORE.right += 1
    else:
        SCORE.wrong += 1
        log(f"guest: check {number} failed")


def wait(before: u64) -> None:
    """Until there were more interrupts than `before`."""
    while interrupts.handled(0) == before:
        sysreg.DAIF = _IRQ_MASKED
        if interrupts.handled(0) == before:
            wfi()
        sysreg.DAIF = 0
        isb()


def devices() -> None:
    desk = mmio(Desk, Va(DESK))
    check(1, desk.LOOK == MAGIC)
    desk.WIDE = 0x1122_3344_5566_7788
    check(2, desk.WIDE == 0x1122_3344_5566_7788)
    check(3, desk.NARROW == 0x5566_7788)
    mmio(Desk, Va(BELL)).LOOK = 3


def identity(kind: u32) -> None:
    a, b, c, d = hvc(VendorCall.CALL_UID)
    check(4, a == KVM_UID_WORDS[0] and b == KVM_UID_WORDS[1] and c == KVM_UID_WORDS[2] and d == KVM_UID_WORDS[3])
    high, low, counter_high, counter_low = hvc(VendorCall.PTP, PtpCounter.VIRTUAL)
    if kind & ANSWERS_PTP == 0:
        check(5, u32(high) == NOT_SUPPORTED & 0xFFFF_FFFF)
        return
    check(5, high == 0x1234 and low == 0x5678)
    isb()
    check(6, sysreg.CNTVCT_EL0 - (counter_high << 32 | counter_low) < _CLOSE)


def line() -> None:
    """An SPI that is raised and never lowered: one interrupt, although the guest takes it for a level."""
    distributor = mmio(Gicd, Va(VIRT.gicd))
    number: u32 = 32 + SPI
    distributor.IGROUPR[1] = 0xFFFF_FFFF
    distributor.IPRIORITYR[number] = 0xA0
    distributor.IROUTER[number] = 0
    distributor.ISENABLER[1] = 1 << SPI
    before = interrupts.handled(0)
    mmio(Desk, Va(DESK)).SPI = SPI
    wait(before)
    for _ in range(_ROUNDS):
        isb()
    check(7, interrupts.handled(0) == before + 1)


def alarm() -> None:
    before = interrupts.handled(0)
    sysreg.CNTV_CVAL_EL0 = sysreg.CNTVCT_EL0 + sysreg.CNTFRQ_EL0 // 1000
    sysreg.CNTV_CTL_EL0 = CNT_CTL(ENABLE=1)
    isb()
    wait(before)
    check(8, interrupts.handled(0) == before + 1)


def work() -> None:
    """Long enough for the host to want its CPU back."""
    end = sysreg.CNTVCT_EL0 + sysreg.CNTFRQ_EL0 // 2000
    while sysreg.CNTVCT_EL0 < end:
        isb()


def second_is(state: AffinityState) -> bool:
    """After some time at least."""
    for _ in range(_ROUNDS):
        is_on, _, _, _ = hvc(Psci.AFFINITY_INFO_64, _SECOND, 0)
        if is_on == state:
            return True
        _ = mmio(Desk, Va(DESK)).LOOK
    return False


def siblings() -> None:
    """The second vCPU is switched on, waits, gets an SGI and switches itself off."""
    private = mmio(GicrSgi, Va(VIRT.redistributors + 3 * FRAME_SIZE))
    private.IGROUPR0 = 0xFFFF_FFFF
    private.IPRIORITYR[interrupts.SGI] = 0xA0
    private.ISENABLER0 = _SGI_MASK
    check(9, second_is(AffinityState.OFF))
    status, _, _, _ = hvc(Psci.CPU_ON_64, _SECOND, u64(second_address()), 0)
    check(10, status == 0 and second_is(AffinityState.ON))
    for _ in range(4):
        _ = mmio(Desk, Va(DESK)).LOOK  # it gets to its WFI
    sysreg.ICC_SGI1R_EL1 = ICC_SGI1R_EL1(INTID=interrupts.SGI, TargetList=1 << _SECOND)
    isb()
    check(11, second_is(AffinityState.OFF))


def balloon(kind: u32) -> None:
    """The page goes back wiped, and another one comes when it is touched again."""
    page = Va(HOLE)
    poke64(page, _SECRET)
    status, _, _, _ = hvc(VendorCall.MEM_RELINQUISH, HOLE, 0, 0)
    check(12, status == 0)
    if kind & PAGES_ON_DEMAND != 0:
        check(13, peek64(page) == FRESH)


def run() -> None:
    desk = mmio(Desk, Va(DESK))
    kind = desk.KIND
    if kind & SECOND_LIFE != 0:
        hvc(Psci.SYSTEM_OFF)
    interrupts.enable()
    devices()
    identity(kind)
    line()
    alarm()
    work()
    siblings()
    balloon(kind)
    log(f"guest: {SCORE.right} right, {SCORE.wrong} wrong")
    hvc(Psci.SYSTEM_RESET)
