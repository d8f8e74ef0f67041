# SPDX-License-Identifier: Apache-2.0
"""SMC calling convention and PSCI for the host: what starts a CPU passes through the core, the rest is the
firmware's.

The host comes here by SMC (trapped) and by HVC. To firmware go PSCI, the architecture's and the CPU's own
calls, TRNG, SiP and OEM services. What lets firmware act on memory or enter EL2 on the host's word does not:
SDEI, FF-A, trusted applications and operating systems.
"""

from __future__ import annotations

from typing import NoReturn

import gz.core.image as image
import gz.core.mmu as mmu
from gz.arm64.insn import dsb, hvc, smc, wfi
from gz.arm64.psci import PSCI_LAST, AffinityState, Psci, PsciStatus
from gz.arm64.smccc import NOT_SUPPORTED, FunctionId, Owner, Smccc, Trng
from gz.bits import Pa, u32, u64
from gz.core.context import Context
from gz.core.cpu import CPUS, Cpu
from gz.core.memory import is_ram
from gz.core.platform import machine
from gz.metal import cold, compare_exchange, inline, load_acquire, store_release

_SMC64 = 1 << 30
_INSTRUCTION = 4
_TRNG_FIRST = Trng.VERSION & 0xFFFF
_TRNG_LAST = Trng.RND32 & 0xFFFF


def call(context: Context) -> Context:
    """x0 is the function; results in x0–x3. Gives the context to resume."""
    x = context.x
    function = x[0] & 0xFFFF_FFFF
    owner = FunctionId(u32(function)).OWNER
    number = function & 0xFFFF
    if x[0] >> 31 & 1 == 0:
        x[0] = NOT_SUPPORTED  # yielding calls
    elif owner == Owner.STANDARD_SECURE and number <= PSCI_LAST:
        return _psci(context, function)
    elif owner <= Owner.OEM or (owner == Owner.STANDARD_SECURE and _TRNG_FIRST <= number <= _TRNG_LAST):
        _forward(context)
    else:
        x[0] = NOT_SUPPORTED
    return context


def _psci(context: Context, function: u64) -> Context:
    x = context.x
    if function & _SMC64 == 0:
        # SMC32: only the low halves of the arguments count (DEN0028 2.6).
        for i in range(1, 5):
            x[i] &= 0xFFFF_FFFF
    match Psci(function & ~u64(_SMC64)):
        case Psci.CPU_ON:
            x[0] = _cpu_on(x[1], Pa(x[2]), x[3])
        case Psci.CPU_OFF:
            x[0] = _cpu_off(context, function)
        case Psci.AFFINITY_INFO:
            x[0] = _affinity_info(function, x[1], x[2])
        case Psci.CPU_SUSPEND:
            x[0] = _suspend(context, x[1], Pa(x[2]), x[3])
        case Psci.CPU_DEFAULT_SUSPEND | Psci.SYSTEM_SUSPEND:
            x[0] = _suspend_at(context, function, Pa(x[1]), x[2])
        case Psci.FEATURES:
            x[0] = _features(x[1] & 0xFFFF_FFFF)
        case (
            Psci.VERSION
            | Psci.MIGRATE_INFO_TYPE
            | Psci.MIGRATE_INFO_UP_CPU
            | Psci.MIGRATE
            | Psci.SYSTEM_OFF
            | Psci.SYSTEM_RESET
            | Psci.SYSTEM_RESET2
            | Psci.NODE_HW_STATE
            | Psci.SET_SUSPEND_MODE
            | Psci.STAT_RESIDENCY
            | Psci.STAT_COUNT
        ):
            _forward(context)
        case _:
            x[0] = NOT_SUPPORTED
    return context


@inline
def _forward(context: Context) -> None:
    x = context.x
    x[0], x[1], x[2], x[3] = smc(x[0], x[1], x[2], x[3], x[4], x[5], x[6], x[7])


@inline
def _error(status: PsciStatus) -> u64:
    return u64(status)


def find(mpidr: u64) -> Cpu | None:
    """The CPU with exactly those affinity bits."""
    for i in range(machine.cpu_count):
        cpu = CPUS[i]
        if cpu.mpidr == mpidr:
            return cpu
    return None


def _cpu_on(mpidr: u64, entry: Pa, argument: u64) -> u64:
    """Of several callers one gets to firmware, the others see ON_PENDING or ALREADY_ON (DEN0022 5.6)."""
    cpu = find(mpidr)
    if cpu is None:
        return _error(PsciStatus.INVALID_PARAMETERS)
    if u64(entry) & 3 != 0 or not is_ram(entry, _INSTRUCTION):
        return _error(PsciStatus.INVALID_ADDRESS)
    before = compare_exchange(cpu.power, AffinityState.OFF, AffinityState.ON_PENDING)
    if before == AffinityState.ON_PENDING:
        return _error(PsciStatus.ON_PENDING)
    if before == AffinityState.ON:
        return _error(PsciStatus.ALREADY_ON)
    cpu.entry = u64(entry)
    cpu.entry_context = argument
    dsb("sy")
    status, _, _, _ = smc(Psci.CPU_ON_64, mpidr, u64(secondary_entry()), cpu.index)
    if status != 0:
        store_release(cpu.power, AffinityState.OFF)
    return status


def secondary_entry() -> Pa:
    """Where a CPU enters the core with its MMU off."""
    return mmu.load_address() + (image.secondary_start() - image.image_start())


def _cpu_off(context: Context, function: u64) -> u64:
    cpu = context.cpu
    store_release(cpu.power, AffinityState.OFF)
    status, _, _, _ = smc(function)
    store_release(cpu.power, AffinityState.ON)  # it came back: refused
    return status


def _affinity_info(function: u64, mpidr: u64, level: u64) -> u64:
    """OFF only once firmware says so too: until then the CPU still runs on its way out."""
    if level != 0:
        return _error(PsciStatus.INVALID_PARAMETERS)
    cpu = find(mpidr)
    if cpu is None:
        return _error(PsciStatus.INVALID_PARAMETERS)
    state = load_acquire(cpu.power)
    if state == AffinityState.OFF:
        answer, _, _, _ = smc(function, mpidr, level)
        return answer
    return state


def _suspend(context: Context, state: u64, entry: Pa, argument: u64) -> u64:
    """A state that loses the CPU's registers comes back through the core's entry, a standby state to here."""
    if u64(entry) & 3 != 0 or (entry != Pa(0) and not is_ram(entry, _INSTRUCTION)):
        return _error(PsciStatus.INVALID_ADDRESS)
    cpu = context.cpu
    cpu.entry = u64(entry)
    cpu.entry_context = argument
    dsb("sy")
    status, _, _, _ = smc(Psci.CPU_SUSPEND_64, state, u64(secondary_entry()), cpu.index)
    return status


def _suspend_at(context: Context, function: u64, entry: Pa, argument: u64) -> u64:
    """The calls without a state."""
    if u64(entry) & 3 != 0 or not is_ram(entry, _INSTRUCTION):
        return _error(PsciStatus.INVALID_ADDRESS)
    cpu = context.cpu
    cpu.entry = u64(entry)
    cpu.entry_context = argument
    dsb("sy")
    status, _, _, _ = smc(function | _SMC64, u64(secondary_entry()), cpu.index)
    return status


def _features(function: u64) -> u64:
    """Only what `call` passes on is there, if firmware has it."""
    owner = FunctionId(u32(function)).OWNER
    if function != Smccc.VERSION and (owner != Owner.STANDARD_SECURE or function & 0xFFFF > PSCI_LAST):
        return NOT_SUPPORTED
    match Psci(function & ~u64(_SMC64)):
        case Psci.MEM_PROTECT | Psci.MEM_PROTECT_CHECK_RANGE | Psci.CPU_FREEZE:
            return NOT_SUPPORTED
        case _:
            answer, _, _, _ = smc(Psci.FEATURES, function)
            return answer


@cold
def off() -> NoReturn:
    """The end of the machine; without firmware, of this CPU. HVC: the core was entered at EL1."""
    if machine.psci_smc != 0:
        smc(Psci.SYSTEM_OFF)
    elif machine.psci_hvc != 0:
        hvc(Psci.SYSTEM_OFF)
    while True:
        wfi()
