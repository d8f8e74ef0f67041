# SPDX-License-Identifier: Apache-2.0
"""Distributor and redistributors as the guest's loads and stores see them (IHI 0069, 12.9 to 12.11).

Registers with a bit or more for each interrupt are rows of one table; it serves the distributor (SPIs) and the
SGI frames of the redistributors (a vCPU's private interrupts) alike.  An access of a size that the architecture
doesn't give a register, or of a register that isn't there, reads zero and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import gz.core.timer as timer
import gz.core.vgic as vgic
from gz.arm64.gic import (
    ARM_IMPLEMENTER,
    FRAME_SIZE,
    GIC_IIDR,
    GICD_CTLR,
    GICD_TYPER,
    GICR_TYPER,
    GICR_WAKER,
    INTERRUPTS_MAX,
    PRIVATE_INTERRUPTS,
    REDISTRIBUTOR_SIZE,
    Gicd,
    Gicr,
)
from gz.arm64.gic_interface import ICH_VMCR_EL2
from gz.arm64.sysreg import sysreg
from gz.bits import Held, function_table, table, u8, u16, u32, u64
from gz.core.interrupts import BANK, BANKS, Bank
from gz.metal import cold, inline, noinline

if TYPE_CHECKING:
    from gz.core.interrupts import Vgic
    from gz.core.vcpu import Vcpu

_WORD = 4  # bytes
_INTID_MASK = 0xFF_FFFF  # of the registers that take an INTID
_DOUBLEWORD = 8

#: One security state, affinity routing always on.
_CTLR_FIXED = GICD_CTLR(ARE_S=1, DS=1)
_CTLR_WRITABLE = GICD_CTLR(EnableGrp0=1, EnableGrp1NS=1)
_TYPER = GICD_TYPER(ITLinesNumber=BANKS - 1, IDbits=9)
_IIDR = GIC_IIDR(Implementer=ARM_IMPLEMENTER, ProductID=ord("G"))
#: 0xFFD0 to 0xFFFC: peripheral and component identification of an Arm GICv3.
_IDENTIFICATION = table(u8, [0x44, 0, 0, 0, 0x92, 0xB4, 0x3B, 0, 0x0D, 0xF0, 0x05, 0xB1])
_IDENTIFICATION_BASE = Gicd.offset("PIDR4")
_IROUTER = Gicd.offset("IROUTER")
_IROUTER_END = _IROUTER + 8 * INTERRUPTS_MAX
_IROUTER_IMPLEMENTED = 0x80FF_FFFF  # no Aff3: GICD_TYPER.A3V = 0
_PRIORITY_MASK = 0xF8  # as many bits as every list register has
_SLEEPING = GICR_WAKER(ProcessorSleep=1, ChildrenAsleep=1)

_CONTROL_END = Gicd.offset("IGROUPR")
#: Registers of interrupts: from here on a slot of 0x80 bytes belongs to one row.
_ROWS_END = 0x1000
_SLOT_SHIFT = 7


# The rows: a getter gives a register of the interrupts from `first` on, a setter says which of the bank's
# interrupts may be ready now.

Getter = Callable[[Bank, u32, u32], u64]
Setter = Callable[[Bank, u32, u32, u32], u32]


def get_zero(bank: Bank, first: u32, size: u32) -> u64:
    return 0


def get_group(bank: Bank, first: u32, size: u32) -> u64:
    return bank.group1


def get_enable(bank: Bank, first: u32, size: u32) -> u64:
    return bank.enabled


def get_pending(bank: Bank, first: u32, size: u32) -> u64:
    return vgic.pending(bank)


def get_active(bank: Bank, first: u32, size: u32) -> u64:
    return bank.active


def get_priority(bank: Bank, first: u32, size: u32) -> u64:
    value: u64 = 0
    for i in range(size):
        value |= u64(bank.priority[first + u32(i)]) << (8 * i)
    return value


def get_configuration(bank: Bank, first: u32, size: u32) -> u64:
    value: u64 = 0
    for i in range(16):
        value |= u64(bank.edge >> (first + u32(i)) & 1) << (2 * i + 1)
    return value


def set_nothing(bank: Bank, first: u32, size: u32, value: u32) -> u32:
    return 0


def set_group(bank: Bank, first: u32, size: u32, value: u32) -> u32:
    bank.group1 = value & bank.valid
    return bank.valid


def set_enable(bank: Bank, first: u32, size: u32, value: u32) -> u32:
    bank.enabled |= value & bank.valid
    return value


def clear_enable(bank: Bank, first: u32, size: u32, value: u32) -> u32:
    bank.enabled &= ~value
    return 0


def set_pending(bank: Bank, first: u32, size: u32, value: u32) -> u32:
    bank.latch |= value & bank.valid
    return value


def clear_pending(bank: Bank, first: u32, size: u32, value: u32) -> u32:
    bank.latch &= ~value
    return 0


def set_active(bank: Bank, first: u32, size: u32, value: u32) -> u32:
    bank.active |= value & bank.valid
    return value


def clear_active(bank: Bank, first: u32, size: u32, value: u32) -> u32:
    bank.active &= ~value
    return value


def set_priority(bank: Bank, first: u32, size: u32, value: u32) -> u32:
    changed: u32 = 0
    for i in range(size):
        n = first + u32(i)
        if bank.valid >> n & 1 != 0:
            bank.priority[n] = u8(value >> (8 * u32(i)) & _PRIORITY_MASK)
            changed |= u32(1) << n
    return changed


def set_configuration(bank: Bank, first: u32, size: u32, value: u32) -> u32:
    edge: u32 = 0
    for i in range(16):
        edge |= (value >> (2 * u32(i) + 1) & 1) << (first + u32(i))
    chosen = bank.configurable & u32(0xFFFF) << first
    bank.edge = bank.edge & ~chosen | edge & chosen
    return chosen


#: What a row wants to know of interrupts that are in list registers.
_READ, _WRITE, _BOTH = 1, 2, 3


@dataclass(frozen=True)
class Row:
    start: int
    end: int
    bits: int  # for each interrupt
    get: Getter
    set: Setter
    recall: int = 0
    bytewise: bool = False


def _row(name: str, bits: int, get: Getter, set: Setter, recall: int = 0, bytewise: bool = False) -> Row:
    start = Gicd.offset(name)
    return Row(start, start + 1024 * bits // 8, bits, get, set, recall, bytewise)


_NO_ROW = Row(0, 0, 1, get_zero, set_nothing)
ROWS = (
    _NO_ROW,
    _row("IGROUPR", 1, get_group, set_group, _WRITE),
    _row("ISENABLER", 1, get_enable, set_enable),
    _row("ICENABLER", 1, get_enable, clear_enable, _WRITE),
    _row("ISPENDR", 1, get_pending, set_pending, _BOTH),
    _row("ICPENDR", 1, get_pending, clear_pending, _BOTH),
    _row("ISACTIVER", 1, get_active, set_active, _BOTH),
    _row("ICACTIVER", 1, get_active, clear_active, _BOTH),
    _row("IPRIORITYR", 8, get_priority, set_priority, _WRITE, bytewise=True),
    _row("ICFGR", 2, get_configuration, set_configuration, _WRITE),
)
_ICACTIVER_ROW = next(i for i, row in enumerate(ROWS) if row.set is clear_active)
_ISACTIVER_ROW = next(i for i, row in enumerate(ROWS) if row.set is set_active)


def _row_at(offset: int) -> int:
    return next((i for i, row in enumerate(ROWS) if row.start <= offset < row.end), 0)


ROW_AT = table(u8, [_row_at(slot << _SLOT_SHIFT) for slot in range(_ROWS_END >> _SLOT_SHIFT)])
_GETTERS = function_table(Getter, [row.get for row in ROWS])
_SETTERS = function_table(Setter, [row.set for row in ROWS])
_STARTS = table(u16, [row.start for row in ROWS])
_DENSITIES = table(u8, [{1: 3, 2: 2, 8: 0}[row.bits] for row in ROWS])  # log2 of interrupts for each byte
_RECALLS = table(u8, [row.recall for row in ROWS])
_BYTEWISE = table(u8, [row.bytewise for row in ROWS])


def _interrupts(vcpu: Vcpu, owner: Vcpu | None, offset: u32, size: u32, is_write: bool, value: u64) -> u64:
    """A register below 0x1000: of the VM's SPIs, or of `owner`'s private interrupts."""
    row = ROW_AT[offset >> _SLOT_SHIFT]
    if row == 0 or (size != _WORD and (size != 1 or _BYTEWISE[row] == 0)) or offset & (size - 1) != 0:
        return 0
    intid = (offset - _STARTS[row]) << _DENSITIES[row]
    if owner is not None:
        if intid >= PRIVATE_INTERRUPTS:
            return 0
        return _in_bank(vcpu, owner, owner.gic.private, row, intid, size, is_write, u32(value))
    spis = vcpu.vm.vgic.spis
    if spis is None or intid < PRIVATE_INTERRUPTS or intid >= INTERRUPTS_MAX:
        return 0
    return _in_bank(vcpu, None, vgic.spi_bank(spis, intid), row, intid, size, is_write, u32(value))


def _in_bank(
    vcpu: Vcpu, owner: Vcpu | None, bank: Bank, row: u8, intid: u32, size: u32, is_write: bool, value: u32
) -> u64:
    first = intid % BANK
    if not is_write and _RECALLS[row] & _READ == 0:
        return _GETTERS[row](bank, first, size)
    locked = vgic.acquire(vcpu)
    result: u64 = 0
    if not is_write:
        _look(vcpu, locked, owner, bank)
        result = _GETTERS[row](bank, first, size)
    else:
        if _RECALLS[row] & _WRITE != 0:
            _look(vcpu, locked, owner, bank)
        if owner is None and row == _ISACTIVER_ROW:
            _adopt(vcpu, locked, bank, intid, value & bank.valid & ~bank.active)
        changed = _SETTERS[row](bank, first, size, value)
        if owner is None:
            vgic.notify(vcpu.vm, locked, intid // BANK, changed, vcpu)
        else:
            if row == _ICACTIVER_ROW:
                timer.deactivated(owner, locked)
            vgic.poke(owner, locked, vcpu)
    vgic.release(locked)
    return result


@inline
def _look(vcpu: Vcpu, locked: Held[Vgic], owner: Vcpu | None, bank: Bank) -> None:
    """The bank is to tell the truth: what is in list registers comes back, timers are looked at."""
    if bank.listed != 0:
        vgic.recall(vcpu.vm, locked, vcpu)
    if owner is not None and owner.index == vcpu.index:
        timer.refresh(vcpu, locked)


@cold
def _adopt(vcpu: Vcpu, locked: Held[Vgic], bank: Bank, intid: u32, fresh: u32) -> None:
    """SPIs made active by hand: active on the vCPU that they are routed to, else on the one that did it."""
    for n in range(BANK):
        if fresh >> u32(n) & 1 != 0:
            owner = vcpu
            for i in range(vgic.VCPUS):
                other = vcpu.vm.vcpus[i]
                if other is not None and other.gic.routed[intid // BANK] >> u32(n) & 1 != 0:
                    owner = other
            bank.owner[n] = u8(owner.index)
            vgic.poke(owner, locked, vcpu)


@cold
def deactivate(vcpu: Vcpu, value: u64) -> None:
    """ICC_DIR_EL1, which has a meaning with EOImode = 1 only: as a store to ICACTIVER, of an SPI from any CPU."""
    intid = u32(value & _INTID_MASK)
    if ICH_VMCR_EL2(sysreg.ICH_VMCR_EL2).VEOIM == 0 or intid >= INTERRUPTS_MAX:
        return
    bit = u32(1) << (intid % BANK)
    spis = vcpu.vm.vgic.spis
    if intid < PRIVATE_INTERRUPTS:
        _in_bank(vcpu, vcpu, vcpu.gic.private, _ICACTIVER_ROW, 0, _WORD, True, bit)
    elif spis is not None:
        _in_bank(vcpu, None, vgic.spi_bank(spis, intid), _ICACTIVER_ROW, intid & ~u32(BANK - 1), _WORD, True, bit)


# The distributor.


@noinline
def distributor(vcpu: Vcpu, offset: u32, size: u32, is_write: bool, value: u64) -> u64:
    """`size` bytes at `offset` of the distributor; gives what a read returns."""
    if offset < _CONTROL_END:
        return _control(vcpu, offset, size, is_write, value)
    if offset < _ROWS_END:
        return _interrupts(vcpu, None, offset, size, is_write, value)
    if offset >= _IROUTER and offset < _IROUTER_END:
        return _router(vcpu, offset - _IROUTER, size, is_write, value)
    return _identification(offset, size)


@inline
def _control(vcpu: Vcpu, offset: u32, size: u32, is_write: bool, value: u64) -> u64:
    if size != _WORD:
        return 0
    if is_write:
        if offset == Gicd.offset("CTLR"):
            _set_control(vcpu, u32(value) & _CTLR_WRITABLE)
        return 0
    if offset == Gicd.offset("IIDR"):
        return _IIDR
    if offset == Gicd.offset("TYPER"):
        return _TYPER
    if offset == Gicd.offset("CTLR"):
        return vcpu.vm.vgic.control | _CTLR_FIXED
    return 0


@cold
def _set_control(vcpu: Vcpu, enables: u32) -> None:
    """Every write has settled when the guest goes on: RWP is never seen set."""
    vm = vcpu.vm
    locked = vgic.acquire(vcpu)
    if vm.vgic.control & ~enables != 0:
        vgic.recall(vm, locked, vcpu)
    vm.vgic.control = enables
    for i in range(vgic.VCPUS):
        other = vm.vcpus[i]
        if other is not None:
            vgic.poke(other, locked, vcpu)
    vgic.release(locked)


def _router(vcpu: Vcpu, offset: u32, size: u32, is_write: bool, value: u64) -> u64:
    """IROUTER, whole or in halves; the upper one is all Aff3."""
    intid = offset // _DOUBLEWORD
    spis = vcpu.vm.vgic.spis
    if spis is None or intid < PRIVATE_INTERRUPTS or size < _WORD or offset % _DOUBLEWORD != 0:
        return 0
    route = spis.routes[intid - PRIVATE_INTERRUPTS]
    if not is_write:
        return route
    chosen = u32(value) & _IROUTER_IMPLEMENTED
    if chosen != route:
        locked = vgic.acquire(vcpu)
        bit = u32(1) << (intid % BANK)
        if vgic.spi_bank(spis, intid).listed & bit != 0:
            vgic.recall(vcpu.vm, locked, vcpu)
        vgic.route(vcpu.vm, locked, spis, intid, chosen)
        vgic.notify(vcpu.vm, locked, intid // BANK, bit, vcpu)
        vgic.release(locked)
    return 0


def _identification(offset: u32, size: u32) -> u64:
    if offset < _IDENTIFICATION_BASE or size != _WORD or offset % _WORD != 0:
        return 0
    return _IDENTIFICATION[(offset - _IDENTIFICATION_BASE) // _WORD]


# The redistributors.


@noinline
def redistributor(vcpu: Vcpu, offset: u32, size: u32, is_write: bool, value: u64) -> u64:
    """`size` bytes at `offset` of the redistributors' frames; gives what a read returns."""
    owner = vcpu.vm.vcpus[offset // REDISTRIBUTOR_SIZE]
    if owner is None:
        return 0
    register = offset % REDISTRIBUTOR_SIZE
    if register >= FRAME_SIZE:
        if register < FRAME_SIZE + _ROWS_END:
            return _interrupts(vcpu, owner, register - FRAME_SIZE, size, is_write, value)
        return 0
    if register == Gicr.offset("TYPER") and size == _DOUBLEWORD:
        return _typer(owner)
    if size != _WORD:
        return 0
    if is_write:
        if register == Gicr.offset("WAKER"):
            owner.gic.sleep = u32(GICR_WAKER(u32(value)).ProcessorSleep)
        return 0
    if register == Gicr.offset("WAKER"):
        return _SLEEPING if owner.gic.sleep != 0 else GICR_WAKER(0)
    if register == Gicr.offset("TYPER"):
        return u64(u32(_typer(owner)))
    if register == Gicr.offset("TYPER") + _WORD:
        return _typer(owner) >> 32
    if register == Gicr.offset("IIDR"):
        return _IIDR
    return _identification(register, size)


@inline
def _typer(owner: Vcpu) -> u64:
    last: u64 = 1 if owner.index + 1 == owner.vm.vgic.redistributor_count else 0
    return GICR_TYPER(Processor_Number=owner.index, Affinity_Value=owner.index, Last=last)
