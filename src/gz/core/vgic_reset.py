# SPDX-License-Identifier: Apache-2.0
"""A VM's GIC from nothing to its state after power-on, and back to nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import gz.core.frames as frames
import gz.core.memory as memory
import gz.core.slots as slots
import gz.core.vgic as vgic
from gz.abi.errors import Error
from gz.abi.memory import SLOTS_MAX
from gz.arm64.gic import DISTRIBUTOR_SIZE, INTERRUPTS_MAX, REDISTRIBUTOR_SIZE, SGIS
from gz.bits import Held, Ipa, i64, u32, u64
from gz.core.interrupts import BANK, SPI_BANKS, Bank, Spis
from gz.metal import address, inline, view

if TYPE_CHECKING:
    from gz.core.vcpu import Vcpu
    from gz.core.vm import Vm

SPI_FRAMES = (Spis.size + frames.FRAME_SIZE - 1) // frames.FRAME_SIZE
#: The map of QEMU's virt machine: its client counts in INTIDs.
_QEMU_DISTRIBUTOR = 0x0800_0000
_EDGE_SGIS = (1 << SGIS) - 1
_PPIS = 0xFFFF_0000
_LAST_BANK = (1 << (INTERRUPTS_MAX % BANK)) - 1


def create_distributor(vm: Held[Vm], base: Ipa, size: u64) -> i64:
    """CREATE_DEVICE."""
    gic = vm.vgic
    if gic.distributor_size != 0 or size < DISTRIBUTOR_SIZE or not _placed(vm, base, DISTRIBUTOR_SIZE):
        return Error.INVALID_ARGS
    run = frames.allocate_run(SPI_FRAMES)
    if run == 0:
        return Error.NO_MEMORY
    gic.spis = view(Spis, memory.va(run))
    gic.distributor = base
    gic.distributor_size = DISTRIBUTOR_SIZE
    if base == _QEMU_DISTRIBUTOR:
        vm.quirks |= vgic.QUIRK_INTID
    reset(vm)
    return Error.NO_ERROR


def create_redistributor(vm: Held[Vm], base: Ipa, size: u64) -> i64:
    """CREATE_DEVICE: the first frame; those of the other vCPUs follow."""
    gic = vm.vgic
    if gic.redistributor_exists != 0 or size < REDISTRIBUTOR_SIZE:
        return Error.INVALID_ARGS
    if not _placed(vm, base, vgic.VCPUS * REDISTRIBUTOR_SIZE):
        return Error.INVALID_ARGS
    gic.redistributors = base
    gic.redistributor_exists = 1
    gic.redistributor_size = u64(gic.redistributor_count) * REDISTRIBUTOR_SIZE
    return Error.NO_ERROR


@inline
def _placed(vm: Vm, base: Ipa, size: u64) -> bool:
    """Aligned, and nowhere in memory: of a protected guest's a part would be the vGIC's to swallow."""
    aligned = u64(base) % DISTRIBUTOR_SIZE == 0 and u64(base) + size > u64(base)
    return aligned and not slots.overlap(vm, SLOTS_MAX, base, size)


def destroy(vm: Held[Vm]) -> None:
    """The VM ends and has no vCPU: its frames go back."""
    gic = vm.vgic
    spis = gic.spis
    if spis is not None:
        frames.free_run(memory.pa(address(spis)), SPI_FRAMES)
        gic.spis = None
    gic.distributor_size = 0
    gic.redistributor_exists = 0
    gic.redistributor_size = 0
    gic.redistributor_count = 0


def reset(vm: Vm) -> None:
    """Distributor, SPIs and every vCPU as after power-on.  No vCPU of the VM runs."""
    gic = vm.vgic
    gic.control = 0
    gic.busy = 0
    gic.shared = 0
    spis = gic.spis
    if spis is not None:
        for i in range(SPI_BANKS):
            valid = ~u32(0)
            if i == SPI_BANKS - 1:
                valid = u32(_LAST_BANK)
            _clear(spis.banks[i], valid)
            spis.banks[i].configurable = valid
        for i in range(SPI_BANKS * BANK):
            spis.routes[i] = 0
    for i in range(vgic.VCPUS):
        vcpu = vm.vcpus[i]
        if vcpu is not None:
            _reset_vcpu(vcpu)
            for number in range(SPI_BANKS):
                vcpu.gic.routed[number + 1] = ~u32(0) if i == 0 else u32(0)


def create_vcpu(vcpu: Vcpu) -> None:
    """A new one as after power-on. Its frame is there from now on, and SPIs routed to its affinity reach it."""
    _reset_vcpu(vcpu)
    spis = vcpu.vm.vgic.spis
    if spis is not None:
        for number in range(SPI_BANKS):
            here: u32 = 0
            for n in range(BANK):
                here |= u32(spis.routes[number * BANK + n] == vcpu.index) << u32(n)
            vcpu.gic.routed[number + 1] = here


def _reset_vcpu(vcpu: Vcpu) -> None:
    """Redistributor and CPU interface; the vCPU doesn't run."""
    gic = vcpu.gic
    _clear(gic.private, ~u32(0))
    gic.private.edge = _EDGE_SGIS
    gic.private.tracked = _PPIS
    gic.sleep = 1
    gic.used = 0
    gic.dirty = 0
    gic.stale = 0
    gic.announce = 0
    reset_interface(vcpu)
    shared = vcpu.vm.vgic
    shared.redistributor_count = max(shared.redistributor_count, vcpu.index + 1)
    if shared.redistributor_exists != 0:
        shared.redistributor_size = u64(shared.redistributor_count) * REDISTRIBUTOR_SIZE


def reset_interface(vcpu: Vcpu) -> None:
    """The CPU interface alone: what PSCI CPU_ON resets."""
    gic = vcpu.gic
    gic.vmcr = 0
    for i in range(4):
        gic.ap0r[i] = 0
        gic.ap1r[i] = 0


def _clear(bank: Bank, valid: u32) -> None:
    bank.enabled = 0
    bank.group1 = 0
    bank.edge = 0
    bank.latch = 0
    bank.line = 0
    bank.tracked = 0
    bank.active = 0
    bank.listed = 0
    bank.any = 0
    bank.valid = valid
    bank.configurable = 0
    for i in range(BANK):
        bank.priority[i] = 0
        bank.owner[i] = 0
