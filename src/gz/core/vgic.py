# SPDX-License-Identifier: Apache-2.0
"""The interrupt state of a VM (GICv3, IHI 0069) and what makes an interrupt pending.

32 interrupts are a `Bank`: a vCPU's private ones, or 32 of the VM's SPIs.  A pending or active interrupt of a
vCPU that runs lies in a list register of that CPU (core/list_registers.py) and then its bit in `listed` is set;
whoever has to know or change its state calls it back first (`recall`).

All of it is under the VM's `Vgic.lock`.  A vCPU takes it with `acquire`, which answers calls for its list
registers while it waits; the rest of the core takes it with no lock held that a running vCPU may wait for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.counters as counters
import gz.core.kick as kick
import gz.core.list_registers as list_registers
import gz.core.lock as lock
import gz.core.timer as timer
import gz.core.vgic_mmio as vgic_mmio
import gz.core.vm as vms
from gz.abi.errors import Error
from gz.abi.exits import ExitReason
from gz.arm64.gic import INTERRUPTS_MAX, PRIVATE_INTERRUPTS, REDISTRIBUTOR_SIZE
from gz.arm64.gic_interface import ICC_SGI1R_EL1, ICH_MISR_EL2, ICH_VMCR_EL2
from gz.arm64.insn import wfi, yield_
from gz.arm64.sysreg import sysreg
from gz.bits import Held, Ipa, i64, u32, u64
from gz.core.interrupts import BANK, Bank, Spis, VcpuGic, Vgic
from gz.core.outcome import Outcome
from gz.metal import cold, count_trailing_zeros, held, inline, load_acquire, read_once, releases, store_release

if TYPE_CHECKING:
    from gz.core.vcpu import Vcpu
    from gz.core.vm import Vm

VCPUS = 8  # affinity 0.0.0.index each
_ALL_VCPUS = (1 << VCPUS) - 1
#: Vm.quirks: IRQ_LINE numbers from 32 on are INTIDs and not SPI indices (gzvm ABI 3.1).
QUIRK_INTID = 1 << 0

#: IROUTER.Interrupt_Routing_Mode
ROUTE_ANY = 1 << 31

_GROUP0, _GROUP1 = 1, 2  # of GICD_CTLR and ICH_VMCR_EL2


# Locking.


@inline
def acquire(vcpu: Vcpu) -> Held[Vgic]:
    """Take the VM's vGIC lock as a vCPU; meanwhile others may get what is in our list registers."""
    while not lock.attempt(vcpu.vm.vgic.lock):
        if read_once(vcpu.gic.recall) != 0:
            list_registers.surrender(vcpu)
        yield_()
    return held(vcpu.vm.vgic)


@inline
@releases
def release(gic: Held[Vgic]) -> None:
    lock.release(gic.lock)


def recall(vm: Vm, locked: Held[Vgic], own: Vcpu | None) -> None:
    """Bring what is in list registers back into the banks; `own` runs on this CPU."""
    for i in range(VCPUS):
        target = vm.vcpus[i]
        if target is not None and target.gic.loaded != 0 and target.gic.used != 0:
            target.gic.dirty = 1
            if own is not None and target.index == own.index:
                list_registers.fold(target, locked)
            else:
                store_release(target.gic.recall, 1)
                kick.vcpu(target)
                while load_acquire(target.gic.recall) != 0:
                    yield_()


# What is pending.


@inline
def pending(bank: Bank) -> u32:
    """Pending here; for one that is listed only what came since."""
    return bank.latch | (bank.line & bank.tracked & ~bank.edge)


@inline
def forwarded(gic: Vgic, bank: Bank) -> u32:
    """Enabled, one by one and as a group."""
    groups: u32 = 0
    if gic.control & _GROUP1 != 0:
        groups = bank.group1
    if gic.control & _GROUP0 != 0:
        groups |= ~bank.group1
    return bank.enabled & groups


@inline
def ready(gic: Vgic, bank: Bank) -> u32:
    """What may go into a list register as pending."""
    return pending(bank) & forwarded(gic, bank) & ~bank.active & ~bank.listed


@inline
def spi_bank(spis: Spis, intid: u32) -> Bank:
    return spis.banks[intid // BANK - 1]


# Routing.


def _route(gic: VcpuGic, spi: u32, here: bool) -> None:
    """`spi` counts from 0."""
    bit = u32(1) << (spi % BANK)
    if here:
        gic.routed[spi // BANK + 1] |= bit
    else:
        gic.routed[spi // BANK + 1] &= ~bit


def route(vm: Vm, locked: Held[Vgic], spis: Spis, intid: u32, value: u32) -> None:
    """IROUTER := value.  An affinity without a vCPU leaves the interrupt pending."""
    spi = intid - PRIVATE_INTERRUPTS
    spis.routes[spi] = value
    bank = spi_bank(spis, intid)
    bit = u32(1) << (intid % BANK)
    if value & ROUTE_ANY != 0:
        bank.any |= bit
        locked.shared = 1
    else:
        bank.any &= ~bit
    for i in range(VCPUS):
        vcpu = vm.vcpus[i]
        if vcpu is not None:
            _route(vcpu.gic, spi, value == vcpu.index)


# Telling a vCPU.


def poke(target: Vcpu, locked: Held[Vgic], own: Vcpu | None) -> None:
    """`target` has something to look at.

    If it runs elsewhere, its CPU is kicked; if it sleeps in the host and a vCPU caused this, that one tells the
    host.
    """
    gic = target.gic
    store_release(gic.dirty, 1)
    if own is None:
        if gic.loaded != 0:
            kick.vcpu(target)
    elif target.index != own.index:
        if gic.loaded != 0:
            kick.vcpu(target)
        if target.idle != 0:
            announce(own)


@inline
def announce(vcpu: Vcpu) -> None:
    """`vcpu` leaves with exit IPI at the end of this trap: the host wakes what sleeps (gzvm ABI 2.7)."""
    if vcpu.vm.capabilities & vms.IDLE != 0:
        vcpu.gic.announce = 1
        vcpu.gic.dirty = 1


def notify(vm: Vm, locked: Held[Vgic], number: u32, changed: u32, own: Vcpu | None) -> None:
    """Of bank `number` of the INTID space, SPIs, some of `changed` may be ready now."""
    spis = locked.spis
    if spis is None:
        return
    bank = spis.banks[number - 1]
    locked.busy |= u32(1) << number
    waiting = ready(locked, bank) & changed
    everyone = bank.any & waiting
    again = pending(bank) & bank.listed & changed
    for i in range(VCPUS):
        vcpu = vm.vcpus[i]
        if vcpu is not None:
            if again != 0 and vcpu.gic.used != 0:
                vcpu.gic.stale = 1  # one of them has it in a list register, which does not know
                poke(vcpu, locked, own)
            elif waiting & (vcpu.gic.routed[number] | everyone) != 0:
                poke(vcpu, locked, own)


@cold
def offer(vcpu: Vcpu, locked: Held[Vgic]) -> None:
    """SPIs for any CPU that this one, on which it runs, does not take after all."""
    spis = locked.spis
    if spis is None:
        return
    remaining = locked.busy & ~u32(1)
    while remaining != 0:
        number = count_trailing_zeros(remaining)
        remaining &= remaining - 1
        notify(vcpu.vm, locked, number, spis.banks[number - 1].any, vcpu)


# Sources.


def irq_line(vm: Vm, vcpu_index: u32, number: u64, level: u64) -> i64:
    """IRQ_LINE (gzvm ABI 3.1, 3.2): SPI index below 32, else by the VM's quirk.  Vm.lock is not held."""
    gic = vm.vgic
    spis = gic.spis
    if spis is None or level > 1 or number >= INTERRUPTS_MAX:
        return Error.INVALID_ARGS
    if vcpu_index >= VCPUS or vm.vcpus[vcpu_index] is None:
        return Error.INVALID_ARGS
    intid = u32(number)
    if intid < PRIVATE_INTERRUPTS or vm.quirks & QUIRK_INTID == 0:
        intid += PRIVATE_INTERRUPTS
    if intid >= INTERRUPTS_MAX:
        return Error.INVALID_ARGS
    lock.acquire(gic.lock)
    locked = held(gic)
    if level != 0:
        _rise(vm, locked, spis, intid)
    else:
        _fall(vm, locked, spis, intid)
    release(locked)
    return Error.NO_ERROR


def _rise(vm: Vm, locked: Held[Vgic], spis: Spis, intid: u32) -> None:
    """A source that never lowers its line gives one interrupt a call, whatever the trigger."""
    bank = spi_bank(spis, intid)
    bit = u32(1) << (intid % BANK)
    if bank.line & bank.tracked & bit != 0:
        return
    if bank.tracked & bit == 0 or bank.edge & bit != 0:
        bank.latch |= bit
    bank.line |= bit
    notify(vm, locked, intid // BANK, bit, None)


def _fall(vm: Vm, locked: Held[Vgic], spis: Spis, intid: u32) -> None:
    bank = spi_bank(spis, intid)
    bit = u32(1) << (intid % BANK)
    if bank.listed & bit != 0 and bank.edge & bit == 0:
        recall(vm, locked, None)
    bank.line &= ~bit
    bank.tracked |= bit
    if bank.edge & bit == 0:
        bank.latch &= ~bit


def send_sgi(vcpu: Vcpu, value: u64, group1: bool) -> None:
    """ICC_SGI1R_EL1 (`group1`) reaches SGIs of both groups, ICC_SGI0R_EL1 and ICC_ASGI1R_EL1 of group 0."""
    request = ICC_SGI1R_EL1(value)
    bit = u32(1) << u32(request.INTID)
    targets = u32(request.TargetList)
    if request.IRM != 0:
        targets = ~(u32(1) << vcpu.index)
    elif request.Aff1 != 0 or request.Aff2 != 0 or request.Aff3 != 0 or request.RS != 0:
        return
    locked = acquire(vcpu)
    targets &= _ALL_VCPUS
    while targets != 0:
        target = vcpu.vm.vcpus[count_trailing_zeros(targets)]
        targets &= targets - 1
        if target is not None:
            bank = target.gic.private
            if group1 or bank.group1 & bit == 0:
                bank.latch |= bit
                poke(target, locked, vcpu)
    release(locked)


# The guest's side.


@inline
def contains(vm: Vm, ipa: Ipa) -> bool:
    gic = vm.vgic
    return ipa - gic.distributor < gic.distributor_size or ipa - gic.redistributors < gic.redistributor_size


def occupies(vm: Vm, base: Ipa, size: u64) -> bool:
    """Registers lie there, or would with more vCPUs: no place for memory, which they would hide from the guest."""
    gic = vm.vgic
    if gic.distributor_size != 0 and gic.distributor < base + size and base < gic.distributor + gic.distributor_size:
        return True
    end = gic.redistributors + VCPUS * REDISTRIBUTOR_SIZE
    return gic.redistributor_exists != 0 and gic.redistributors < base + size and base < end


@inline
def access(vcpu: Vcpu, ipa: Ipa, size: u32, is_write: bool, value: u64) -> u64:
    """An access of `size` bytes that `contains` claimed; gives what a read returns."""
    offset = ipa - vcpu.vm.vgic.distributor
    if offset < vcpu.vm.vgic.distributor_size:
        return vgic_mmio.distributor(vcpu, u32(offset), size, is_write, value)
    return vgic_mmio.redistributor(vcpu, u32(ipa - vcpu.vm.vgic.redistributors), size, is_write, value)


def flush(vcpu: Vcpu) -> None:
    """Before the guest goes on, if `dirty`: what is new goes into the list registers."""
    gic = vcpu.gic
    gic.dirty = 0  # before looking: who comes later sets it again
    locked = acquire(vcpu)
    list_registers.reclaim(vcpu, locked)
    if gic.stale != 0 or gic.private.latch & gic.private.listed != 0:
        list_registers.fold(vcpu, locked)
    if gic.private.line != 0:
        timer.resample(vcpu, locked)
        counters.resample(vcpu, locked)
    list_registers.fill(vcpu, locked)
    release(locked)


@cold
def maintenance(vcpu: Vcpu) -> bool:
    """The GIC's maintenance interrupt: a level ended, there is room for more, or a group was enabled or disabled.
    False: none of them, it isn't ours."""
    reasons = ICH_MISR_EL2(sysreg.ICH_MISR_EL2)
    if reasons == 0:
        return False
    locked = acquire(vcpu)
    list_registers.fold(vcpu, locked)
    timer.resample(vcpu, locked)
    counters.resample(vcpu, locked)
    if reasons.VGrp0D | reasons.VGrp1D != 0:
        offer(vcpu, locked)
    list_registers.fill(vcpu, locked)
    release(locked)
    return True


# Waiting.


def deliverable(vcpu: Vcpu) -> bool:
    """Does something end a WFI: pending, enabled, better than the priority mask?  PSTATE doesn't count.

    The vCPU runs on this CPU.
    """
    locked = acquire(vcpu)
    list_registers.fold(vcpu, locked)
    vcpu.gic.dirty = 1
    timer.refresh(vcpu, locked)
    counters.resample(vcpu, locked)
    found = _deliverable(vcpu, locked, ICH_VMCR_EL2(sysreg.ICH_VMCR_EL2))
    release(locked)
    return found


def sleeps(vcpu: Vcpu) -> bool:
    """A vCPU that left by WFI and does not run: is there still nothing to wake up for?"""
    locked = acquire(vcpu)
    found = _deliverable(vcpu, locked, ICH_VMCR_EL2(vcpu.gic.vmcr))
    release(locked)
    return not found and timer.deadline(vcpu) != 0


def _deliverable(vcpu: Vcpu, locked: Held[Vgic], vmcr: ICH_VMCR_EL2) -> bool:
    remaining = locked.busy | 1
    while remaining != 0:
        number = count_trailing_zeros(remaining)
        remaining &= remaining - 1
        waiting = list_registers.candidates(vcpu, locked, number)
        while waiting != 0:
            n = count_trailing_zeros(waiting)
            waiting &= waiting - 1
            bank = list_registers.bank_of(vcpu, number * BANK + n)
            group = _GROUP1 if bank.group1 >> n & 1 != 0 else _GROUP0
            if vmcr & group != 0 and bank.priority[n] < vmcr.VPMR:
                return True
    return False


def leave_idle(vcpu: Vcpu) -> Outcome:
    """A WFI with its PC moved and `idle` set: whoever makes something pending from now on sees that.

    Without the IDLE capability the driver would be back at once, so the CPU waits here; what ends the wait is
    taken when the guest goes on.
    """
    if deliverable(vcpu):
        vcpu.idle = 0
        return Outcome.RESUME
    if vcpu.vm.capabilities & vms.IDLE != 0:
        vcpu.exit = ExitReason.IDLE
        return Outcome.LEAVE
    vcpu.idle = 0
    wfi()
    return Outcome.RESUME
