# SPDX-License-Identifier: Apache-2.0
"""What the caches and TLBs of this machine want of software: the most that one of its CPUs wants."""

from __future__ import annotations

from gz.arm64.features import ID_AA64MMFR2_EL1
from gz.arm64.insn import dsb, ic, tlbi
from gz.arm64.registers import CTR_EL0, MIDR_EL1, Implementer
from gz.arm64.sysreg import sysreg
from gz.bits import table, u16, u64
from gz.core.platform import machine
from gz.metal import inline

_DCZID_PROHIBITED = 1 << 4

#: Implementer and part number of CPUs on which stores through a translation may be observed after the TLBI and DSB
#: that end it, so that both are repeated (CVE-2025-10263; Cortex-A55 erratum 2441007, Cortex-A510 2441009).
_PARTS = {
    Implementer.ARM: (
        *(0xD05, 0xD46),  # Cortex-A55, A510
        *(0xD0B, 0xD0E, 0xD0D, 0xD41, 0xD42, 0xD4B, 0xD47),  # Cortex-A76, A76AE, A77, A78, A78AE, A78C, A710
        *(0xD44, 0xD4C, 0xD48, 0xD4E, 0xD82, 0xD85),  # Cortex-X1, X1C, X2, X3, X4, X925
        *(0xD0C, 0xD49, 0xD40, 0xD4F, 0xD84, 0xD83),  # Neoverse N1, N2, V1, V2, V3, V3AE
        *(0xD90, 0xD8C),  # C1-Premium, C1-Ultra
    ),
    Implementer.MICROSOFT: (0xD49,),  # Azure Cobalt 100
    Implementer.NVIDIA: (0x010,),  # Olympus
}
_LATE_STORES = table(u64, [implementer << 16 | part for implementer, parts in _PARTS.items() for part in parts])


def begin() -> None:
    """On the CPU that boots."""
    features = CTR_EL0(sysreg.CTR_EL0)
    machine.cache_line = u64(4) << features.DminLine
    dczid = sysreg.DCZID_EL0
    if dczid & _DCZID_PROHIBITED == 0:
        machine.zero_block = u64(4) << (dczid & 0xF)
    machine.forces_write_back = _forces_write_back()
    machine.fetches_coherently = u16(features.DIC)
    machine.repeats_tlbi = _repeats_tlbi()


def join() -> None:
    """On each CPU that comes later, before the host runs on it."""
    if CTR_EL0(sysreg.CTR_EL0).DIC == 0:
        machine.fetches_coherently = 0
    if _repeats_tlbi() != 0:
        machine.repeats_tlbi = 1
    assert _forces_write_back() >= machine.forces_write_back, "a CPU without FEAT_S2FWB beside others that have it"


def _forces_write_back() -> u16:
    return 1 if ID_AA64MMFR2_EL1(sysreg.ID_AA64MMFR2_EL1).FWB != 0 else 0


def _repeats_tlbi() -> u16:
    midr = MIDR_EL1(sysreg.MIDR_EL1)
    name = midr.Implementer << 16 | midr.PartNum
    for late in _LATE_STORES:
        if late == name:
            return 1
    return 0


@inline
def settle() -> None:
    """After TLB maintenance and its DSB: stores that began before are observed too. Any broadcast TLBI will do."""
    if machine.repeats_tlbi != 0:
        tlbi("vale1is", 0)
        dsb("ish")


@inline
def refetch() -> None:
    """Before a guest can execute what the host wrote: no instruction cache keeps what lay there before."""
    if machine.fetches_coherently == 0:
        ic("ialluis")
        dsb("ish")
