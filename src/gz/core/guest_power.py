# SPDX-License-Identifier: Apache-2.0
"""PSCI 1.1 for guests (DEN0022); the vCPU that calls is running."""

from __future__ import annotations

import gz.core.exits as exits
import gz.core.slots as slots
import gz.core.vgic as vgic
import gz.core.vm as vms
from gz.abi.exits import ExitReason, SystemEvent
from gz.arm64.psci import NO_TRUSTED_OS, VERSION_1_1, AffinityState, PsciStatus
from gz.bits import Ipa, i64, u64
from gz.core.conduit import answer, argument
from gz.core.outcome import Outcome
from gz.core.platform import machine
from gz.core.vcpu import Power, Vcpu
from gz.core.vm import Vm
from gz.metal import cold, compare_exchange, inline, load_acquire, store_release
from gz.vmm.maps import VIRT

_AFFINITY = 0xFF_00FF_FFFF  # of MPIDR_EL1; all else must be zero
_LEVELS = 4


def version(vcpu: Vcpu) -> Outcome:
    return answer(vcpu, VERSION_1_1)


def migrate_info_type(vcpu: Vcpu) -> Outcome:
    return answer(vcpu, NO_TRUSTED_OS)


@inline
def _target(vcpu: Vcpu, affinity: u64) -> Vcpu | None:
    if affinity >= vgic.VCPUS:
        return None
    return vcpu.vm.vcpus[affinity]


def cpu_on(vcpu: Vcpu) -> Outcome:
    """Of two callers one wins: the claim keeps entry and context id its own until they are complete.

    For the guest a vCPU is on from then on, whenever the host runs it: the others get ALREADY_ON, as below KVM, and
    kvm-unit-tests take no ON_PENDING.
    """
    return answer(vcpu, _cpu_on(vcpu))


def _cpu_on(vcpu: Vcpu) -> i64:
    affinity = argument(vcpu, 1)
    entry = argument(vcpu, 2)
    target = _target(vcpu, affinity)
    if target is None:
        return PsciStatus.INVALID_PARAMETERS
    if entry & 3 != 0 or not _is_memory(vcpu.vm, Ipa(entry)):
        return PsciStatus.INVALID_ADDRESS
    if compare_exchange(target.power, Power.OFF, Power.CLAIMED) != Power.OFF:
        return PsciStatus.ALREADY_ON
    target.entry = entry
    target.entry_context = argument(vcpu, 3)
    store_release(target.power, Power.ON_PENDING)
    vgic.announce(vcpu)
    return PsciStatus.SUCCESS


def _is_memory(vm: Vm, ipa: Ipa) -> bool:
    """A guest without a host has no slots."""
    if vm.resident != 0:
        return ipa - Ipa(VIRT.ram) < machine.guests[vm.resident - 1].memory.size
    return slots.find(vm, ipa) is not None


def cpu_off(vcpu: Vcpu) -> Outcome:
    """Its thread comes back and finds it parked until CPU_ON."""
    return _park(vcpu)


@cold
def _park(vcpu: Vcpu) -> Outcome:
    store_release(vcpu.power, Power.OFF)
    vcpu.exit = ExitReason.IDLE if vcpu.vm.capabilities & vms.IDLE != 0 else ExitReason.GZ
    return Outcome.LEAVE


def cpu_suspend(vcpu: Vcpu) -> Outcome:
    """As WFI, whatever state is asked for: a shallower one is always allowed (DEN0022 5.4)."""
    answer(vcpu, PsciStatus.SUCCESS)
    vcpu.idle = 1
    return vgic.leave_idle(vcpu)


def affinity_info(vcpu: Vcpu) -> Outcome:
    return answer(vcpu, _affinity_info(vcpu))


def _affinity_info(vcpu: Vcpu) -> i64:
    """ON if any CPU of the affinity instance is on."""
    affinity = argument(vcpu, 1)
    level = argument(vcpu, 2)
    if affinity & ~u64(_AFFINITY) != 0 or level >= _LEVELS:
        return PsciStatus.INVALID_PARAMETERS
    state: i64 = PsciStatus.INVALID_PARAMETERS
    for i in range(vgic.VCPUS):
        other = vcpu.vm.vcpus[i]
        if other is not None and _instance(affinity, level) == _instance(u64(i), level):
            if load_acquire(other.power) != Power.OFF:
                return AffinityState.ON
            state = AffinityState.OFF
    return state


@inline
def _instance(affinity: u64, level: u64) -> u64:
    """Aff3 lies in bits 39 to 32: nothing between it and Aff2."""
    packed = (affinity & 0xFF_FFFF) | (affinity >> 8 & 0xFF00_0000)
    return packed >> (8 * level)


def system_off(vcpu: Vcpu) -> Outcome:
    return _end(vcpu, SystemEvent.SHUTDOWN)


def system_reset(vcpu: Vcpu) -> Outcome:
    return _end(vcpu, SystemEvent.RESET)


def system_reset2(vcpu: Vcpu) -> Outcome:
    """Type 0, a warm reset, is as good as any; the vendors' own types are not ours."""
    if argument(vcpu, 1) != 0:
        return answer(vcpu, PsciStatus.INVALID_PARAMETERS)
    return _end(vcpu, SystemEvent.RESET)


@cold
def _end(vcpu: Vcpu, event: SystemEvent) -> Outcome:
    """Never returns, and the VMM hears it once: the first one tells it."""
    outcome = _park(vcpu)
    if compare_exchange(vcpu.vm.reset_pending, 0, 1) != 0:
        return outcome
    return exits.system_event(vcpu, event)
