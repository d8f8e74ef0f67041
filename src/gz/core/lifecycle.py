# SPDX-License-Identifier: Apache-2.0
"""A vCPU's life: created parked or runnable, powered by PSCI, reset, destroyed."""

from __future__ import annotations

import gz.core.counters as counters
import gz.core.debug as debug
import gz.core.frames as frames
import gz.core.memory as memory
import gz.core.simd as simd
import gz.core.slots as slots
import gz.core.stage2 as stage2
import gz.core.stolen_time as stolen_time
import gz.core.timer as timer
import gz.core.vgic_reset as vgic_reset
import gz.core.vm as vms
import gz.core.world as world
from gz.abi.errors import Error
from gz.abi.memory import Purpose
from gz.abi.registers import BOOT_PSTATE
from gz.abi.run import PAGE_SIZE
from gz.arm64.descriptors import PAGE_SHIFT
from gz.arm64.insn import dmb
from gz.arm64.registers import SCTLR_EL1_RES1
from gz.arm64.sysreg import SysRegs
from gz.bits import Held, Ipa, Pa, i64, u32, u64
from gz.core.context import EL1_REGISTERS, KEY_REGISTERS
from gz.core.firmware import firmware
from gz.core.platform import machine
from gz.core.vcpu import Power, Vcpu
from gz.core.vm import VCPU_COUNT_MAX, Vm
from gz.metal import address, compare_exchange, inline, load_acquire, store_release, view

VCPU_FRAMES = (Vcpu.size + 4095) // 4096

_SCTLR = EL1_REGISTERS.index(SysRegs.SCTLR_EL1)
_MPIDR_RES1 = 1 << 31
BOOT_ARGUMENTS = 8  # x0 to x7: what a program may be given at its start


@inline
def affinity(index: u32) -> u64:
    """MPIDR_EL1's affinity of a vCPU: what both public clients write into their device trees (gzvm ABI 4.6)."""
    return u64(index & 15) | u64(index >> 4) << 8


def create(vm: Held[Vm], index: u32, run_page: Pa) -> i64:
    """The caller has checked `run_page` and that the index is free."""
    if index >= VCPU_COUNT_MAX or vm.vcpus[index] is not None:
        return Error.INVALID_ARGS
    if index == 0 and vm.protected != 0 and vm.started != 0:  # it would start where the host wants
        return Error.INVALID_ARGS
    frame = frames.allocate_run(_frames())
    if frame == 0:
        return Error.NO_MEMORY
    vcpu = view(Vcpu, memory.va(frame))
    if machine.vector_length != 0:
        vcpu.context.sve = u64(memory.va(frame + VCPU_FRAMES * frames.FRAME_SIZE))
    vcpu.vm = vm
    vcpu.index = index
    vcpu.run_page = run_page
    vcpu.context.vcpu = vcpu
    world.prepare(vcpu.context, stage2.vttbr(vm.stage2), affinity(index) | _MPIDR_RES1)
    vcpu.created = 1
    vgic_reset.create_vcpu(vcpu)
    timer.reset(vcpu)
    reset(vcpu, u64(vm.firmware) if index == 0 else 0, 0)
    vcpu.power = Power.ON if index == 0 else Power.OFF
    vm.frame_count += _frames()
    vm.vcpu_count += 1
    dmb("ish")  # who finds the vCPU finds it whole
    vm.vcpus[index] = vcpu
    return Error.NO_ERROR


@inline
def _frames() -> u64:
    """Of a vCPU: itself, and its SVE state behind it."""
    return VCPU_FRAMES + simd.frame_count()


def destroy(vm: Held[Vm], index: u32) -> i64:
    """A vCPU that runs is not torn from under its CPU."""
    if index >= VCPU_COUNT_MAX:
        return Error.INVALID_ARGS
    vcpu = vm.vcpus[index]
    if vcpu is None:
        return Error.INVALID_ARGS
    if compare_exchange(vcpu.running, 0, ~u32(0)) != 0:
        return Error.BUSY
    stolen_time.forget(vcpu)
    vm.vcpus[index] = None
    vm.vcpu_count -= 1
    vm.frame_count -= _frames()
    frames.free_run(memory.pa(address(vcpu)), _frames())
    return Error.NO_ERROR


def reset(vcpu: Vcpu, entry: u64, x0: u64) -> None:
    """Architectural reset into EL1h with interrupts masked, MMU and caches off (DEN0022 6.4)."""
    stolen_time.forget(vcpu)
    context = vcpu.context
    context.x[0] = x0
    for i in range(1, 31):
        context.x[i] = 0
    _reset_rest(vcpu, entry)


def _reset_rest(vcpu: Vcpu, entry: u64) -> None:
    context = vcpu.context
    for i in range(len(EL1_REGISTERS)):
        context.el1[i] = 0
    context.el1[_SCTLR] = SCTLR_EL1_RES1
    simd.reset(context)
    for i in range(len(KEY_REGISTERS)):
        context.keys[i] = 0
    context.elr = entry
    context.spsr = BOOT_PSTATE
    context.hcr = world.guest_hcr()
    debug.reset(vcpu)
    counters.reset(vcpu)
    vcpu.idle = 0
    vcpu.access.active = 0


def protect(vm: Held[Vm]) -> i64:
    """From its first page and instruction on, or not at all (INVALID_ARGS).

    Of what the host has set, PC and the first registers of the boot vCPU stay: the arguments of a program.
    """
    if not vms.close(vm):
        return Error.INVALID_ARGS
    status: i64 = Error.NO_ERROR
    if vm.protected == 0:
        status = _protect(vm)
    vms.open(vm)
    return status


def _protect(vm: Held[Vm]) -> i64:
    if vm.started != 0 or vm.lent_count != 0 or not slots.are_open(vm):
        return Error.INVALID_ARGS
    frame = frames.allocate()
    if frame == 0:
        return Error.NO_MEMORY
    vm.guard = frame
    vm.frame_count += 1
    vm.protected = 1
    vm.watched = 0
    for i in range(VCPU_COUNT_MAX):
        vcpu = vm.vcpus[i]
        if vcpu is not None:
            context = vcpu.context
            first: u64 = BOOT_ARGUMENTS if i == 0 else 0
            for k in range(first, 31):
                context.x[k] = 0
            _reset_rest(vcpu, context.elr if i == 0 else 0)
    return Error.NO_ERROR


def load_firmware(vm: Held[Vm], entry: Ipa) -> i64:
    """The VM is protected from now on and its boot vCPU starts at `entry`, where a slot for
    firmware has room for the core's.
    """
    size = firmware.size
    if size == 0:
        return Error.NOT_SUPPORTED
    slot = slots.find(vm, entry)
    if slot is None or slot.purpose != Purpose.PROTECTED_FIRMWARE or u64(entry) & (PAGE_SIZE - 1) != 0:
        return Error.INVALID_ARGS
    if size > (slot.page_count << PAGE_SHIFT) - (entry - slot.base):
        return Error.INVALID_ARGS
    if not vms.close(vm):
        return Error.INVALID_ARGS
    status: i64 = Error.INVALID_ARGS
    if vm.started == 0 and vm.lent_count == 0 and (vm.firmware_size == 0 or vm.firmware == entry):
        status = _protect(vm) if vm.protected == 0 else i64(Error.NO_ERROR)
    if status == Error.NO_ERROR:
        vm.firmware = entry
        vm.firmware_size = size
        boot = vm.vcpus[0]
        if boot is not None:
            boot.context.elr = u64(entry)
    vms.open(vm)
    return status


def power_up(vcpu: Vcpu) -> bool:
    """Take up a CPU_ON that another vCPU made; False: still off."""
    if load_acquire(vcpu.power) != Power.ON_PENDING:
        return False
    reset(vcpu, vcpu.entry, vcpu.entry_context)
    timer.reset(vcpu)
    vgic_reset.reset_interface(vcpu)
    store_release(vcpu.power, Power.ON)
    return True


def reset_all(vm: Vm) -> None:
    """After a guest's SYSTEM_RESET: vCPU 0 waits for its registers, the others for CPU_ON."""
    for i in range(VCPU_COUNT_MAX):
        vcpu = vm.vcpus[i]
        if vcpu is not None:
            reset(vcpu, 0, 0)
            timer.reset(vcpu)
            vcpu.power = Power.ON if i == 0 else Power.OFF
    vgic_reset.reset(vm)
