# SPDX-License-Identifier: Apache-2.0
"""The list registers of the CPU and what of a vCPU's interrupts lies in them (IHI 0069, 4.2.3 and 12.4).

They keep their contents while the guest runs and at every trap that returns to it.  An interrupt that is in one
is `listed` in its bank; `fold` brings all of them back, `reclaim` only frees those that the guest has finished,
`fill` puts in what is ready.  With more interrupts than registers the best ones are chosen; the rest follows at
the maintenance interrupt.  All of it on the CPU that runs the vCPU; whatever touches banks takes the vGIC's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.timer as timer
import gz.core.trace as trace
import gz.core.vgic as vgic
from gz.arm64.gic import PRIVATE_INTERRUPTS
from gz.arm64.gic_interface import ICH_HCR_EL2, ICH_LR, ICH_VMCR_EL2, ICH_VTR_EL2, LR_EOI, LrState
from gz.arm64.sysreg import SysRegs, read, sysreg, write
from gz.arm64.timer import TimerInterrupt
from gz.bits import Held, u8, u32, u64
from gz.core.platform import machine
from gz.core.trace import Event
from gz.metal import (
    address,
    cold,
    count_trailing_zeros,
    held,
    inline,
    noinline,
    panic,
    peek64,
    popcount,
    releases,
    store_release,
    unroll,
)

if TYPE_CHECKING:
    from gz.core.interrupts import Bank, VcpuGic, Vgic
    from gz.core.vcpu import Vcpu

REGISTERS = (
    SysRegs.ICH_LR0_EL2,
    SysRegs.ICH_LR1_EL2,
    SysRegs.ICH_LR2_EL2,
    SysRegs.ICH_LR3_EL2,
    SysRegs.ICH_LR4_EL2,
    SysRegs.ICH_LR5_EL2,
    SysRegs.ICH_LR6_EL2,
    SysRegs.ICH_LR7_EL2,
    SysRegs.ICH_LR8_EL2,
    SysRegs.ICH_LR9_EL2,
    SysRegs.ICH_LR10_EL2,
    SysRegs.ICH_LR11_EL2,
    SysRegs.ICH_LR12_EL2,
    SysRegs.ICH_LR13_EL2,
    SysRegs.ICH_LR14_EL2,
    SysRegs.ICH_LR15_EL2,
)
_NUMBERED = tuple(enumerate(REGISTERS))
_AP0R = (SysRegs.ICH_AP0R0_EL2, SysRegs.ICH_AP0R1_EL2, SysRegs.ICH_AP0R2_EL2, SysRegs.ICH_AP0R3_EL2)
_AP1R = (SysRegs.ICH_AP1R0_EL2, SysRegs.ICH_AP1R1_EL2, SysRegs.ICH_AP1R2_EL2, SysRegs.ICH_AP1R3_EL2)
_PRIORITIES = tuple(zip(range(4), _AP0R, _AP1R, strict=True))

_VIRTUAL_TIMER = TimerInterrupt.EL1_VIRTUAL
#: No interrupt, where one is its priority << 16 | INTID.
_NONE = 0xFFFF_FFFF
_GROUP = 8  # interrupts that are looked at together
_GROUP_MASK = (1 << _GROUP) - 1
_ONES = 0x0101_0101_0101_0101
_DIAGONAL = 0x8040_2010_0804_0201  # bit n of byte n
#: ICC_DIR_EL1 always traps: what it names may lie in no register, or in another CPU's, and EOIcount tells no number.
_ENABLED = ICH_HCR_EL2(En=1, TDIR=1)


def read_register(index: u32) -> u64:
    for i, register in unroll(_NUMBERED):
        if index == i:
            return read(register)
    panic(f"list register {index}")


def write_register(index: u32, value: u64) -> None:
    for i, register in unroll(_NUMBERED):
        if index == i:
            write(register, value)


# World switch.


def load(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """The vCPU comes to this CPU."""
    gic = vcpu.gic
    vtr = ICH_VTR_EL2(sysreg.ICH_VTR_EL2)
    gic.dirty = 0
    gic.registers = (u32(2) << u32(vtr.ListRegs)) - 1
    gic.loaded = 1
    sysreg.ICH_VMCR_EL2 = gic.vmcr
    _load_priorities(gic, u32(vtr.PREbits))
    gic.hcr = 0
    fill(vcpu, locked)


def save(vcpu: Vcpu) -> None:
    """The vCPU leaves this CPU; nothing of it stays in the registers."""
    gic = vcpu.gic
    locked = vgic.acquire(vcpu)
    fold(vcpu, locked)
    if locked.shared != 0:
        vgic.offer(vcpu, locked)
    written = gic.written
    while written != 0:
        write_register(count_trailing_zeros(written), 0)
        written &= written - 1
    gic.written = 0
    gic.vmcr = sysreg.ICH_VMCR_EL2
    sysreg.ICH_VMCR_EL2 = 0
    _save_priorities(gic, u32(ICH_VTR_EL2(sysreg.ICH_VTR_EL2).PREbits))
    sysreg.ICH_HCR_EL2 = machine.host_ich
    gic.loaded = 0
    vgic.release(locked)


@inline
def _load_priorities(gic: VcpuGic, preemption: u32) -> None:
    """Register 1 exists with 6 bits of preemption, 2 and 3 with 7; else UNDEFINED (IHI 0069, 12.4.1)."""
    for i, group0, group1 in unroll(_PRIORITIES):
        if i == 0 or preemption > 4 + i // 2:
            write(group0, gic.ap0r[i])
            write(group1, gic.ap1r[i])


@inline
def _save_priorities(gic: VcpuGic, preemption: u32) -> None:
    for i, group0, group1 in unroll(_PRIORITIES):
        if i == 0 or preemption > 4 + i // 2:
            gic.ap0r[i] = read(group0)
            gic.ap1r[i] = read(group1)
            write(group0, 0)
            write(group1, 0)


# From the registers into the banks.


@inline
def bank_of(vcpu: Vcpu, intid: u32) -> Bank:
    if intid < PRIVATE_INTERRUPTS:
        return vcpu.gic.private
    spis = vcpu.vm.vgic.spis
    if spis is None:
        panic("an SPI without a distributor")
    return vgic.spi_bank(spis, intid)


@inline
def reclaim(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """Registers whose interrupt the guest has ended are free again."""
    gic = vcpu.gic
    ended = gic.used & u32(sysreg.ICH_ELRSR_EL2)
    while ended != 0:
        index = count_trailing_zeros(ended)
        ended &= ended - 1
        gic.used &= ~(u32(1) << index)
        _retire(vcpu, locked, index, ICH_LR(0))


@noinline
def fold(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """Everything back into the banks, all registers clear."""
    gic = vcpu.gic
    used = gic.used
    while used != 0:
        index = count_trailing_zeros(used)
        used &= used - 1
        content = ICH_LR(read_register(index))
        write_register(index, 0)
        _retire(vcpu, locked, index, content)
    gic.used = 0
    gic.stale = 0
    if ICH_HCR_EL2(gic.hcr).LRENPIE != 0:
        ends = ICH_HCR_EL2(sysreg.ICH_HCR_EL2).EOIcount
        for _ in range(ends):
            _end_best(vcpu, locked)
        gic.hcr = 0
        sysreg.ICH_HCR_EL2 = gic.hcr


def surrender(vcpu: Vcpu) -> None:
    """Answer another CPU's call for our interrupts."""
    locked = _borrow(vcpu)
    fold(vcpu, locked)
    _give_back(vcpu, locked)


@inline
def _borrow(vcpu: Vcpu) -> Held[Vgic]:
    """The CPU that called holds the lock, and waits."""
    return held(vcpu.vm.vgic)


@inline
@releases
def _give_back(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    store_release(vcpu.gic.recall, 0)


@inline
def _retire(vcpu: Vcpu, locked: Held[Vgic], index: u32, content: ICH_LR) -> None:
    gic = vcpu.gic
    intid = gic.intid[index]
    bank = bank_of(vcpu, intid)
    bit = u32(1) << (intid % 32)
    bank.listed &= ~bit
    state = content.State
    if state & LrState.ACTIVE != 0:
        bank.active |= bit
        bank.owner[intid % 32] = u8(vcpu.index)
    if state & LrState.PENDING != 0 and gic.latched >> index & 1 != 0:
        bank.latch |= bit
    if intid == _VIRTUAL_TIMER and state == LrState.INACTIVE:
        timer.ended(vcpu, locked)
    if intid >= PRIVATE_INTERRUPTS and (bank.active | vgic.pending(bank)) & bit != 0:
        locked.busy |= u32(1) << (intid // 32)


@cold
def _end_best(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """EOIcount: the guest ended an active interrupt that was in no register, the best of those."""
    best: u32 = _NONE
    for number in range(32):
        waiting = _active(vcpu, locked, u32(number))
        while waiting != 0:
            bank = bank_of(vcpu, u32(number) * 32)
            first = count_trailing_zeros(waiting) & ~u32(_GROUP - 1)
            group = waiting & _GROUP_MASK << first
            waiting &= ~group
            if best == _NONE or _any_below(bank, first, group, best >> 16):
                while group != 0:
                    n = count_trailing_zeros(group)
                    group &= group - 1
                    best = min(best, u32(bank.priority[n]) << 16 | u32(number) * 32 + n)
    if best != _NONE:
        intid = best & 0xFFFF
        bank_of(vcpu, intid).active &= ~(u32(1) << (intid % 32))
        if intid == _VIRTUAL_TIMER:
            timer.release(vcpu, locked)


@inline
def _any_below(bank: Bank, first: u32, group: u32, limit: u32) -> bool:
    """Some of these interrupts, of the eight from `first` on, have a priority below the limit. Where none has, none is
    better than one of that priority and a lower INTID.

    All are even, so that halves have a bit to borrow from.
    """
    others = ((u64(~group >> first & _GROUP_MASK) * _ONES & _DIAGONAL) + 0x7F * _ONES) & 0x80 * _ONES
    halves = peek64(address(bank.priority) + first) >> 1 | others
    return (halves - _ONES * u64(limit >> 1)) & ~halves & 0x80 * _ONES != 0


# From the banks into the registers.


@inline
def candidates(vcpu: Vcpu, locked: Held[Vgic], number: u32) -> u32:
    """Of bank `number` of the INTID space: may be pending in a register of this vCPU."""
    if number == 0:
        return vgic.ready(locked, vcpu.gic.private)
    spis = locked.spis
    if spis is None:
        return 0
    bank = spis.banks[number - 1]
    here = vcpu.gic.routed[number]
    if bank.any != 0:
        here |= bank.any & _listened(vcpu, bank)
    return vgic.ready(locked, bank) & here


@noinline
def _listened(vcpu: Vcpu, bank: Bank) -> u32:
    """Those of a bank whose group the CPU interface has enabled: one for any CPU goes where it is signalled."""
    vmcr = ICH_VMCR_EL2(vcpu.gic.vmcr)
    if vcpu.gic.loaded != 0:
        vmcr = ICH_VMCR_EL2(sysreg.ICH_VMCR_EL2)
    groups: u32 = 0
    if vmcr.VENG1 != 0:
        groups = bank.group1
    if vmcr.VENG0 != 0:
        groups |= ~bank.group1
    return groups


@cold
def _group_changes() -> u64:
    """ICH_HCR_EL2: what is for any CPU is looked at again when this one's groups are enabled or disabled."""
    vmcr = ICH_VMCR_EL2(sysreg.ICH_VMCR_EL2)
    return ICH_HCR_EL2(VGrp0EIE=vmcr.VENG0 ^ 1, VGrp0DIE=vmcr.VENG0, VGrp1EIE=vmcr.VENG1 ^ 1, VGrp1DIE=vmcr.VENG1)


@inline
def _active(vcpu: Vcpu, locked: Held[Vgic], number: u32) -> u32:
    """Of bank `number`: active on this vCPU and in no register."""
    if number == 0:
        return vcpu.gic.private.active & ~vcpu.gic.private.listed
    spis = locked.spis
    if spis is None:
        return 0
    bank = spis.banks[number - 1]
    unlisted = bank.active & ~bank.listed
    here: u32 = 0
    while unlisted != 0:
        n = count_trailing_zeros(unlisted)
        unlisted &= unlisted - 1
        if bank.owner[n] == vcpu.index:
            here |= u32(1) << n
    return here


def fill(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """Put in what is ready or active and sets ICH_HCR_EL2 to match."""
    gic = vcpu.gic
    waiting = candidates(vcpu, locked, 0) | _active(vcpu, locked, 0)
    hcr: u64 = _ENABLED
    if locked.busy != 0 or (waiting != 0 and popcount(waiting) > popcount(gic.registers & ~gic.used)):
        hcr = _choose(vcpu, locked)
    else:
        while waiting != 0:
            n = count_trailing_zeros(waiting)
            waiting &= waiting - 1
            _list(vcpu, locked, gic.private, n)
    if gic.hcr != hcr:
        gic.hcr = hcr
        sysreg.ICH_HCR_EL2 = hcr


@inline
def _list(vcpu: Vcpu, locked: Held[Vgic], bank: Bank, intid: u32) -> None:
    """Into a free register.  A level that is still high is looked at again when the guest ends it."""
    gic = vcpu.gic
    n = intid % 32
    bit = u32(1) << n
    index = count_trailing_zeros(gic.registers & ~gic.used)
    slot = u32(1) << index
    gic.used |= slot
    gic.written |= slot
    gic.latched &= ~slot
    gic.intid[index] = intid
    allowed = vgic.forwarded(locked, bank) & bit
    high = bank.line & bank.tracked & ~bank.edge & bit
    state: u64 = LrState.INACTIVE
    if bank.active & bit != 0:
        state = LrState.ACTIVE
    elif high & allowed != 0:
        state = LrState.PENDING
    if bank.latch & allowed != 0:
        state |= LrState.PENDING
        bank.latch &= ~bit
        gic.latched |= slot
    bank.active &= ~bit
    bank.listed |= bit
    content = ICH_LR(vINTID=intid, Priority=bank.priority[n], Group=bank.group1 >> n & 1, State=state)
    if intid == _VIRTUAL_TIMER and vcpu.timer.held != 0:
        if content.State == LrState.PENDING_ACTIVE:  # not with HW (IHI 0069, ICH_LR<n>_EL2)
            content = content.replace(State=LrState.ACTIVE)
            bank.latch |= bit
            gic.latched &= ~slot
        content = content.replace(HW=1, pINTID=intid)
    elif high != 0:
        content = ICH_LR(content | LR_EOI)
    write_register(index, content)
    trace.record(vcpu.context.cpu, Event.INJECT, trace.of(vcpu), intid, content)


@noinline
def _choose(vcpu: Vcpu, locked: Held[Vgic]) -> u64:
    """`fill` with SPIs about, or with too few registers."""
    gic = vcpu.gic
    total = _gather(vcpu, locked, popcount(gic.registers & ~gic.used))
    if total > gic.best_count and gic.used != 0:
        fold(vcpu, locked)
        total = _gather(vcpu, locked, popcount(gic.registers))
    pending_left: u32 = 0
    for i in range(gic.best_count):
        intid = gic.best[i] & 0xFFFF
        _list(vcpu, locked, bank_of(vcpu, intid), intid)
    control = ICH_HCR_EL2(_ENABLED)
    if locked.shared != 0:
        control = ICH_HCR_EL2(_ENABLED | _group_changes())
    if total == gic.best_count:
        return control
    gic.stale = 1  # EOIcount is looked at by fold
    for number in range(32):
        pending_left |= candidates(vcpu, locked, u32(number))
    return control.replace(NPIE=1 if pending_left != 0 else 0, LRENPIE=1)


def _gather(vcpu: Vcpu, locked: Held[Vgic], capacity: u32) -> u32:
    """The best `capacity` candidates into `best`, a pending one among them; gives how many there are. Registers that
    are in use have to be folded if those that are free don't suffice: then more than `capacity`, and no more.
    """
    gic = vcpu.gic
    gic.best_count = 0
    best_pending: u32 = _NONE
    pending_in: u32 = 0
    total: u32 = 0
    remaining = locked.busy | 1
    while remaining != 0:
        number = count_trailing_zeros(remaining)
        remaining &= remaining - 1
        pending = candidates(vcpu, locked, number)
        active = _active(vcpu, locked, number)
        waiting = pending | active
        if waiting == 0 and number != 0:
            _settle(locked, number)
        total += popcount(waiting)
        if total > capacity and gic.used != 0:
            return total
        bank = bank_of(vcpu, number * 32)
        while waiting != 0:
            first = count_trailing_zeros(waiting) & ~u32(_GROUP - 1)
            group = waiting & _GROUP_MASK << first
            waiting &= ~group
            promising = gic.best_count != capacity or (group & pending != 0 and best_pending == _NONE)
            if not promising:
                worst = gic.best[capacity - 1] >> 16 if capacity != 0 else u32(0)
                promising = _any_below(bank, first, group, worst) or (
                    group & pending != 0 and _any_below(bank, first, group & pending, best_pending >> 16)
                )
            if promising:
                while group != 0:
                    n = count_trailing_zeros(group)
                    group &= group - 1
                    key = u32(bank.priority[n]) << 16 | number * 32 + n
                    if pending >> n & 1 != 0:
                        best_pending = min(best_pending, key)
                    _insert(gic, key, capacity)
    if best_pending != _NONE and total > capacity and capacity != 0:
        for i in range(gic.best_count):
            intid = gic.best[i] & 0xFFFF
            pending_in |= candidates(vcpu, locked, intid // 32) >> (intid % 32) & 1
        if pending_in == 0:
            gic.best[capacity - 1] = best_pending
    return total


@inline
def _insert(gic: VcpuGic, key: u32, capacity: u32) -> None:
    """Sorted insertion; what falls out at the end is worse than all in it."""
    i = gic.best_count
    if i < capacity:
        gic.best_count += 1
    elif capacity == 0 or gic.best[i - 1] < key:
        return
    else:
        i -= 1
    while i > 0 and gic.best[i - 1] > key:
        gic.best[i] = gic.best[i - 1]
        i -= 1
    gic.best[i] = key


@inline
def _settle(locked: Held[Vgic], number: u32) -> None:
    """Forget a bank in which nothing happens, unless some of it may go to any CPU."""
    spis = locked.spis
    if spis is not None:
        bank = spis.banks[number - 1]
        if vgic.pending(bank) | bank.active | bank.any == 0:
            locked.busy &= ~(u32(1) << number)
