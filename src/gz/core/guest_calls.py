# SPDX-License-Identifier: Apache-2.0
"""What a guest calls with HVC #0 or SMC #0: SMCCC 1.2 (DEN0028), PSCI, random numbers, the vendor's services.

Both conduits have the same services, none of them reaches the firmware. What isn't in the table is answered -1.
"""

from __future__ import annotations

from collections.abc import Callable

import gz.core.exits as exits
import gz.core.guard as guard
import gz.core.guest_power as guest_power
import gz.core.guest_random as guest_random
import gz.core.reclaim as reclaim
import gz.core.sharing as sharing
import gz.core.slots as slots
import gz.core.speculation as speculation
import gz.core.stage2 as stage2
import gz.core.stolen_time as stolen_time
import gz.core.work as works
from gz.abi.errors import Error
from gz.abi.guest import GENIEZONE_UID_WORDS, KVM_UID_WORDS, PROTECTED_CALLS, VendorCall, VendorStatus
from gz.abi.run import PAGE_SIZE
from gz.arm64.psci import PSCI_LAST, VERSION_1_1, Psci, PsciStatus
from gz.arm64.smccc import NOT_SUPPORTED, VERSION_1_2, FunctionId, Owner, ParavirtTime, Smccc, SmcccStatus, Trng
from gz.arm64.syndrome import CallIss
from gz.arm64.sysreg import sysreg
from gz.bits import Ipa, function_table, i64, table, u32, u64
from gz.core.conduit import answer, argument
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu
from gz.core.vm import Vm
from gz.metal import inline

GuestCall = Callable[[Vcpu], Outcome]



def _bitmap(word: int, protected: bool) -> int:
    """One of the four words of FEATURES."""
    numbers = [call & 0xFFFF for call in VendorCall if protected or call not in PROTECTED_CALLS]
    return sum(1 << number % 32 for number in numbers if number // 32 == word)


_FEATURES = (_bitmap(0, False), _bitmap(3, False))
_PROTECTED_FEATURES = (_bitmap(0, True), _bitmap(3, True))


def call(vcpu: Vcpu) -> Outcome:
    """RESUME, or LEAVE where the host has a part in it; x0 (to x3) hold the answer."""
    function = u32(vcpu.context.x[0])
    if CallIss(sysreg.ESR_EL2 & 0xFFFF).imm16 != 0:
        vcpu.context.x[0] = NOT_SUPPORTED
        return Outcome.RESUME
    if function == Psci.VERSION:
        vcpu.context.x[0] = VERSION_1_1
        return Outcome.RESUME
    index = find(function)
    if index == len(IDS):
        return answer(vcpu, SmcccStatus.NOT_SUPPORTED)
    return CALLS[index](vcpu)


def find(function: u32) -> u32:
    """Index into the table of calls; its length if the function is not there."""
    low: u32 = 0
    high: u32 = len(IDS)
    while low < high:
        middle = (low + high) // 2
        if IDS[middle] < function:
            low = middle + 1
        else:
            high = middle
    if low < len(IDS) and IDS[low] == function:
        return low
    return len(IDS)


# PSCI's list and the architecture's calls.


def psci_features(vcpu: Vcpu) -> Outcome:
    """No flags for any of them: CPU_SUSPEND has the original format, RESET2 is architectural only."""
    function = u32(argument(vcpu, 1))
    status: i64 = PsciStatus.NOT_SUPPORTED
    if find(function) != len(IDS):
        identifier = FunctionId(function)
        psci = identifier.OWNER == Owner.STANDARD_SECURE and identifier.NUMBER <= PSCI_LAST
        if psci or function == Smccc.VERSION:
            status = PsciStatus.SUCCESS
    return answer(vcpu, status)


def smccc_version(vcpu: Vcpu) -> Outcome:
    return answer(vcpu, VERSION_1_2)


def arch_features(vcpu: Vcpu) -> Outcome:
    function = u32(argument(vcpu, 1))
    status: i64 = SmcccStatus.NOT_SUPPORTED
    if function == Smccc.VERSION or function == Smccc.ARCH_FEATURES or function == ParavirtTime.FEATURES:
        status = SmcccStatus.SUCCESS
    elif function == Smccc.ARCH_WORKAROUND_1:
        status = speculation.features(0)
    elif function == Smccc.ARCH_WORKAROUND_2:
        status = speculation.features(1)
    elif function == Smccc.ARCH_WORKAROUND_3:
        status = speculation.features(2)
    return answer(vcpu, status)


def work_around_1(vcpu: Vcpu) -> Outcome:
    return answer(vcpu, speculation.work_around(0))


def work_around_2(vcpu: Vcpu) -> Outcome:
    return answer(vcpu, speculation.work_around(1))


def work_around_3(vcpu: Vcpu) -> Outcome:
    return answer(vcpu, speculation.work_around(2))


# Paravirtualised time.


def time_features(vcpu: Vcpu) -> Outcome:
    function = u32(argument(vcpu, 1))
    known = function == ParavirtTime.FEATURES or function == ParavirtTime.STOLEN_TIME
    return answer(vcpu, SmcccStatus.SUCCESS if known else SmcccStatus.NOT_SUPPORTED)


def stolen(vcpu: Vcpu) -> Outcome:
    """The address of this vCPU's record."""
    at = stolen_time.record(vcpu)
    if at == 0:
        return answer(vcpu, SmcccStatus.NOT_SUPPORTED)
    return answer(vcpu, i64(u64(at)))


# The vendor's calls.


def vendor_uid(vcpu: Vcpu) -> Outcome:
    """KVM's, whose services these are: the only one Linux knows; GenieZone's own where it loaded firmware."""
    if vcpu.vm.firmware_size != 0:
        return _words(
            vcpu, GENIEZONE_UID_WORDS[0], GENIEZONE_UID_WORDS[1], GENIEZONE_UID_WORDS[2], GENIEZONE_UID_WORDS[3]
        )
    return _words(vcpu, KVM_UID_WORDS[0], KVM_UID_WORDS[1], KVM_UID_WORDS[2], KVM_UID_WORDS[3])


def vendor_features(vcpu: Vcpu) -> Outcome:
    protected = vcpu.vm.protected != 0
    offered: u64 = _PROTECTED_FEATURES[0] if protected else _FEATURES[0]
    if vcpu.vm.smc64 == 0:
        offered &= ~u64(1 << (VendorCall.PTP & 0xFF))
    return _words(vcpu, offered, 0, 0, _PROTECTED_FEATURES[1] if protected else _FEATURES[1])


@inline
def _words(vcpu: Vcpu, w0: u64, w1: u64, w2: u64, w3: u64) -> Outcome:
    x = vcpu.context.x
    x[0] = w0
    x[1] = w1
    x[2] = w2
    x[3] = w3
    return Outcome.RESUME


def ptp(vcpu: Vcpu) -> Outcome:
    """Drivers that call by SMC64 ids answer it, the others would not (gzvm ABI 2.6)."""
    if vcpu.vm.smc64 == 0:
        return answer(vcpu, VendorStatus.NOT_SUPPORTED)
    return exits.hypercall(vcpu, True)


def memory_info(vcpu: Vcpu) -> Outcome:
    """The granule of sharing; x1 = 1: by ranges, where there is sharing."""
    x = vcpu.context.x
    if x[1] | x[2] | x[3] != 0:
        return answer(vcpu, VendorStatus.INVALID_PARAMETER)
    return _words(vcpu, PAGE_SIZE, vcpu.vm.protected, 0, 0)


def share(vcpu: Vcpu) -> Outcome:
    return _transfer(vcpu, True)


def unshare(vcpu: Vcpu) -> Outcome:
    return _transfer(vcpu, False)


def _transfer(vcpu: Vcpu, shown: bool) -> Outcome:
    """x1 = address, x2 = pages (0: one). Gives in x1 how many it did, which may be less; none of them is an error."""
    x = vcpu.context.x
    if vcpu.vm.protected == 0:
        return answer(vcpu, VendorStatus.NOT_SUPPORTED)
    ipa = Ipa(x[1])
    count = max(x[2], 1)
    if x[3] != 0 or not stage2.in_range(ipa, PAGE_SIZE) or count > (stage2.limit() - u64(ipa)) // PAGE_SIZE:
        return answer(vcpu, VendorStatus.INVALID_PARAMETER)
    error: i64 = Error.NO_ERROR
    done: u64 = 0
    if shown:
        error, done = sharing.show(vcpu, ipa, count)
    else:
        error, done = sharing.hide(vcpu, ipa, count)
    if done != 0:
        return _words(vcpu, 0, done, 0, 0)
    if error == Error.FAULT:  # the host has to supply the page first
        exits.page_fault(vcpu, ipa)
        return Outcome.REPEAT
    return answer(vcpu, VendorStatus.INVALID_PARAMETER)


def guard_info(vcpu: Vcpu) -> Outcome:
    """The granule of the MMIO guard; x1 = 1: there are calls for ranges."""
    return _guard_answer(vcpu, PAGE_SIZE, 1)


def guard_enroll(vcpu: Vcpu) -> Outcome:
    """A protected VM is guarded from its start."""
    return _guard_answer(vcpu, VendorStatus.SUCCESS, 0)


def _guard_answer(vcpu: Vcpu, value: u64, second: u64) -> Outcome:
    x = vcpu.context.x
    if vcpu.vm.protected == 0:
        return answer(vcpu, VendorStatus.NOT_SUPPORTED)
    if x[1] | x[2] | x[3] != 0:
        return answer(vcpu, VendorStatus.INVALID_PARAMETER)
    return _words(vcpu, value, second, 0, 0)


def guard_map(vcpu: Vcpu) -> Outcome:
    return _guard(vcpu, True, False)


def guard_unmap(vcpu: Vcpu) -> Outcome:
    return _guard(vcpu, False, False)


def guard_map_range(vcpu: Vcpu) -> Outcome:
    return _guard(vcpu, True, True)


def guard_unmap_range(vcpu: Vcpu) -> Outcome:
    return _guard(vcpu, False, True)


def _guard(vcpu: Vcpu, permitted: bool, ranges: bool) -> Outcome:
    """x1 = a page's address, which is no memory; with `ranges` as `_transfer`."""
    x = vcpu.context.x
    if vcpu.vm.protected == 0:
        return answer(vcpu, VendorStatus.NOT_SUPPORTED)
    wanted = max(x[2], 1)
    done: u64 = 0
    if x[3] == 0 and (ranges or x[2] == 0):
        effort: u64 = works.EFFORT
        while effort != 0 and done < wanted and _guard_page(vcpu.vm, Ipa(x[1]) + done * PAGE_SIZE, permitted):
            done += 1
            effort -= min(effort, guard.effort(vcpu.vm))
    if done == 0:
        return answer(vcpu, VendorStatus.INVALID_PARAMETER)
    return _words(vcpu, 0, done, 0, 0) if ranges else answer(vcpu, VendorStatus.SUCCESS)


def _guard_page(vm: Vm, ipa: Ipa, permitted: bool) -> bool:
    if not stage2.in_range(ipa, PAGE_SIZE) or slots.find(vm, ipa) is not None:
        return False
    return guard.permit(vm, ipa) if permitted else guard.refuse(vm, ipa)


def memory_private(vcpu: Vcpu) -> Outcome:
    """What no program can find out from the tree or by looking: whether the host made a region of it shared."""
    x = vcpu.context.x
    if vcpu.vm.protected == 0:
        return answer(vcpu, VendorStatus.NOT_SUPPORTED)
    private = x[3] == 0 and x[1] % PAGE_SIZE == 0 and slots.private(vcpu.vm, Ipa(x[1]), x[2])
    return answer(vcpu, VendorStatus.SUCCESS if private else VendorStatus.INVALID_PARAMETER)


def relinquish(vcpu: Vcpu) -> Outcome:
    x = vcpu.context.x
    if x[2] | x[3] != 0 or reclaim.relinquish(vcpu, Ipa(x[1])) != Error.NO_ERROR:
        return answer(vcpu, VendorStatus.INVALID_PARAMETER)
    outcome = exits.hypercall(vcpu, False)
    x[0] = u64(i64(VendorStatus.SUCCESS))
    return outcome


#: Every call there is.
_ROWS: dict[int, GuestCall] = {
    Smccc.VERSION: smccc_version,
    Smccc.ARCH_FEATURES: arch_features,
    Smccc.ARCH_WORKAROUND_1: work_around_1,
    Smccc.ARCH_WORKAROUND_2: work_around_2,
    Smccc.ARCH_WORKAROUND_3: work_around_3,
    Psci.VERSION: guest_power.version,
    Psci.CPU_SUSPEND: guest_power.cpu_suspend,
    Psci.CPU_SUSPEND_64: guest_power.cpu_suspend,
    Psci.CPU_OFF: guest_power.cpu_off,
    Psci.CPU_ON: guest_power.cpu_on,
    Psci.CPU_ON_64: guest_power.cpu_on,
    Psci.AFFINITY_INFO: guest_power.affinity_info,
    Psci.AFFINITY_INFO_64: guest_power.affinity_info,
    Psci.MIGRATE_INFO_TYPE: guest_power.migrate_info_type,
    Psci.SYSTEM_OFF: guest_power.system_off,
    Psci.SYSTEM_RESET: guest_power.system_reset,
    Psci.SYSTEM_RESET2: guest_power.system_reset2,
    Psci.SYSTEM_RESET2_64: guest_power.system_reset2,
    Psci.FEATURES: psci_features,
    Trng.VERSION: guest_random.version,
    Trng.FEATURES: guest_random.features,
    Trng.GET_UUID: guest_random.uuid,
    Trng.RND32: guest_random.rnd32,
    Trng.RND64: guest_random.rnd64,
    ParavirtTime.FEATURES: time_features,
    ParavirtTime.STOLEN_TIME: stolen,
    VendorCall.CALL_UID: vendor_uid,
    VendorCall.FEATURES: vendor_features,
    VendorCall.PTP: ptp,
    VendorCall.HYP_MEMINFO: memory_info,
    VendorCall.MEM_SHARE: share,
    VendorCall.MEM_UNSHARE: unshare,
    VendorCall.MMIO_GUARD_INFO: guard_info,
    VendorCall.MMIO_GUARD_ENROLL: guard_enroll,
    VendorCall.MMIO_GUARD_MAP: guard_map,
    VendorCall.MMIO_GUARD_UNMAP: guard_unmap,
    VendorCall.MMIO_RGUARD_MAP: guard_map_range,
    VendorCall.MMIO_RGUARD_UNMAP: guard_unmap_range,
    VendorCall.MEM_RELINQUISH: relinquish,
    VendorCall.MEM_PRIVATE: memory_private,
}
_ORDER = sorted(int(function) for function in _ROWS)

IDS = table(u32, _ORDER)
CALLS = function_table(GuestCall, [_ROWS[function] for function in _ORDER])
