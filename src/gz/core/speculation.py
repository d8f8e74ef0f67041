# SPDX-License-Identifier: Apache-2.0
"""Speculation workarounds (DEN0028 7.5 to 7.7): which of them guests are told to call.

A needless one costs a guest each entry of its kernel, a missing one its secrets. So each CPU is looked up at its
start, by its ID registers and by MIDR_EL1; one that is affected asks its firmware. A vCPU may run on any CPU: what one
CPU needs all vCPUs are told. There is no workaround of the core's own.
"""

from __future__ import annotations

from typing import NamedTuple

from gz.arm64.features import ID_AA64MMFR1_EL1, ID_AA64PFR0_EL1, ID_AA64PFR1_EL1
from gz.arm64.insn import smc
from gz.arm64.psci import Psci
from gz.arm64.registers import MIDR_EL1
from gz.arm64.smccc import VERSION_1_1, Smccc, SmcccStatus
from gz.arm64.sysreg import sysreg
from gz.bits import i32, i64, table, u32, u64
from gz.core.platform import machine
from gz.metal import cold, fetch_or, unroll

_ARM = 0x41
CORTEX_A34, CORTEX_A53, CORTEX_A35, CORTEX_A55 = 0xD02, 0xD03, 0xD04, 0xD05
CORTEX_A510, CORTEX_A520 = 0xD46, 0xD80
#: In order, without the speculation that the workarounds are for.
_IN_ORDER = (CORTEX_A34, CORTEX_A53, CORTEX_A35, CORTEX_A55)

_UNAFFECTED = 1  # of ARCH_FEATURES


class Workaround(NamedTuple):
    call: Smccc
    safe_parts: tuple[int, ...]
    """Arm's parts (MIDR_EL1.PartNum) that don't need it."""
    safe_by: str
    """What of the ID registers says so of a CPU."""
    by_firmware: bool
    """The call acts once, so that a guest may have the firmware's; number 2 would switch the host's, too."""
    reason: str


#: By bit of `machine.vulnerable` and `machine.mitigated`.
WORKAROUNDS: tuple[Workaround, ...] = (
    Workaround(
        Smccc.ARCH_WORKAROUND_1,
        _IN_ORDER,
        "ID_AA64PFR0_EL1.CSV2",
        True,
        "branch targets trained in one context steer another (CVE-2017-5715)",
    ),
    Workaround(
        Smccc.ARCH_WORKAROUND_2,
        _IN_ORDER,
        "ID_AA64PFR1_EL1.SSBS: PSTATE.SSBS does it without a call",
        False,
        "loads pass older stores to the same address (CVE-2018-3639)",
    ),
    Workaround(
        Smccc.ARCH_WORKAROUND_3,
        (*_IN_ORDER, CORTEX_A510, CORTEX_A520),
        "ID_AA64PFR0_EL1.CSV2 from 3 on, ID_AA64MMFR1_EL1.ECBHB",
        True,
        "the history of branches steers those of a higher level (CVE-2022-23960)",
    ),
)
_CALLS = table(u32, [int(row.call) for row in WORKAROUNDS])
_ROWS = tuple((1 << i, int(row.call), row.safe_parts, row.by_firmware) for i, row in enumerate(WORKAROUNDS))


@cold
def survey() -> None:
    """On each CPU at its start."""
    asked = _firmware_answers()
    safe = _safe_by_registers()
    midr = MIDR_EL1(sysreg.MIDR_EL1)
    for bit, call, parts, by_firmware in unroll(_ROWS):
        needed = safe & bit == 0
        for part in unroll(parts):
            if midr.Implementer == _ARM and midr.PartNum == part:
                needed = False
        if needed:
            status: i64 = SmcccStatus.NOT_SUPPORTED
            if asked:
                status = _ask(Smccc.ARCH_FEATURES, call)
            if status == SmcccStatus.SUCCESS and by_firmware:
                fetch_or(machine.mitigated, bit)
            if status != _UNAFFECTED and status != SmcccStatus.NOT_REQUIRED:
                fetch_or(machine.vulnerable, bit)


def _safe_by_registers() -> u32:
    safe: u32 = 0
    csv2 = ID_AA64PFR0_EL1(sysreg.ID_AA64PFR0_EL1).CSV2
    if csv2 != 0:
        safe |= 1
    if ID_AA64PFR1_EL1(sysreg.ID_AA64PFR1_EL1).SSBS != 0:
        safe |= 2
    if csv2 >= 3 or ID_AA64MMFR1_EL1(sysreg.ID_AA64MMFR1_EL1).ECBHB != 0:
        safe |= 4
    return safe


def _firmware_answers() -> bool:
    """SMCCC 1.1 or later, discovered as its specification says."""
    if machine.psci_smc == 0 or _ask(Psci.FEATURES, Smccc.VERSION) != SmcccStatus.SUCCESS:
        return False
    return _ask(Smccc.VERSION, 0) >= VERSION_1_1


def _ask(function: u64, argument: u64) -> i64:
    status, _, _, _ = smc(function, argument)
    return i64(i32(u32(status)))


def features(index: u64) -> i64:
    """What ARCH_FEATURES answers a guest of workaround `index`."""
    if machine.vulnerable >> index & 1 == 0:
        return _UNAFFECTED
    if machine.mitigated >> index & 1 != 0:
        return SmcccStatus.SUCCESS
    return SmcccStatus.NOT_SUPPORTED


def work_around(index: u64) -> i64:
    """The call itself: the firmware's, with nothing of the guest in it."""
    status = features(index)
    if status == SmcccStatus.SUCCESS:
        smc(_CALLS[index])
    return SmcccStatus.SUCCESS if status == _UNAFFECTED else status
