# SPDX-License-Identifier: Apache-2.0
"""Checks of PSCI (DEN0022) and of the services beside it, by HVC: the ground of kvm-unit-tests' psci and smp."""

from __future__ import annotations

from gz.abi.guest import KVM_UID_WORDS, VendorCall
from gz.arm64.insn import hvc, yield_
from gz.arm64.psci import NO_TRUSTED_OS, VERSION_0_2, AffinityState, Psci, PsciStatus
from gz.arm64.registers import MPIDR_EL1
from gz.arm64.smccc import NOT_SUPPORTED, VERSION_1_2, Smccc, Trng
from gz.arm64.sysreg import sysreg
from gz.bits import Va, u32, u64
from gz.metal import assembly, extern, unroll
from payloads import cores
from payloads.checks import SKIP, verdict
from payloads.gic_interface import finish, send, take
from payloads.secondary import secondary_start

_UNKNOWN = 1337
_NOBODY = 0xAA
_LIMIT = 1_000_000  # microseconds
_WORD = 0xFFFF_FFFF
_RNDS_MAX = 192
_CONTEXT = 0x1234_5678_9ABC_DEF0
#: EL1 on its own stack pointer with everything masked, MMU and caches off; a bit for what is otherwise.
_MODE = 1 << 2 | 1
_MASKS = 0x3C0
_OFF = 1 << 12 | 1 << 2 | 1

assembly(
    f"""
    .section .text.power, "ax"
    .global probe_entry_start
    .type probe_entry_start, %function
probe_entry_start:
    adrp x0, probe_entry
    add x0, x0, :lo12:probe_entry
    ret

    // x0: the context id, which is where the answer goes.
probe_entry:
    mrs x1, currentel
    mrs x2, spsel
    orr x1, x1, x2
    mov x3, #{_MODE}
    eor x1, x1, x3
    mrs x2, daif
    mov x3, #{_MASKS}
    eor x2, x2, x3
    orr x1, x1, x2
    mrs x2, sctlr_el1
    mov x3, #{_OFF}
    and x2, x2, x3
    orr x1, x1, x2
    str x1, [x0]
    dc civac, x0
    dsb sy
    ldr x0, ={int(Psci.CPU_OFF):#x}
    hvc #0
    b .
    .ltorg
"""
)


@extern
def probe_entry_start() -> Va: ...


def psci(function: u64, a: u64, b: u64, c: u64) -> u64:
    """x0, sign-extended if it is a word."""
    x0, _, _, _ = hvc(function, a, b, c)
    return x0 | ~u64(_WORD) if x0 >> 31 == 1 else x0


def affinity(cpu: u64) -> u64:
    return psci(Psci.AFFINITY_INFO_64, cpu, 0, 0)


def is_off(cpu: u64) -> bool:
    """In the end."""
    limit = cores.deadline(_LIMIT)
    while affinity(cpu) != AffinityState.OFF:
        if cores.passed(limit):
            return False
        yield_()
    return True


def versions() -> u32:
    return verdict(psci(Psci.VERSION, 0, 0, 0) >= VERSION_0_2)


def unknown() -> u32:
    """Not a function, and one of PSCI 1.1 that needs a trusted operating system."""
    no_call = psci(_UNKNOWN, 0, 0, 0) == NOT_SUPPORTED
    return verdict(no_call and psci(Psci.MIGRATE, 0, 0, 0) == NOT_SUPPORTED)


def features() -> u32:
    for function in unroll((Psci.VERSION, Psci.CPU_ON_64, Psci.CPU_OFF, Psci.AFFINITY_INFO_64, Psci.SYSTEM_OFF)):
        answer = psci(Psci.FEATURES, function, 0, 0)
        if answer == NOT_SUPPORTED and psci(Psci.FEATURES, Psci.VERSION, 0, 0) == NOT_SUPPORTED:
            return SKIP
        if answer != PsciStatus.SUCCESS:
            return verdict(False)
    return verdict(psci(Psci.FEATURES, _UNKNOWN, 0, 0) == NOT_SUPPORTED)


def migrate_info() -> u32:
    return verdict(psci(Psci.MIGRATE_INFO_TYPE, 0, 0, 0) == NO_TRUSTED_OS)


def affinities() -> u32:
    """This CPU is on, nobody has that affinity."""
    nobody = affinity(_NOBODY)
    refused = u64(PsciStatus.INVALID_PARAMETERS)
    return verdict(affinity(0) == AffinityState.ON and nobody == refused)


# CPUs come and go.


def own_numbers() -> u32:
    """Each CPU has the affinity it was started by."""
    holds = True
    for cpu in range(1, cores.count()):
        if cores.run(cpu, NUMBER_JOB) != cpu:
            holds = False
    return verdict(holds and number() == 0)


def number() -> u64:
    mpidr = MPIDR_EL1(sysreg.MPIDR_EL1)
    return mpidr.Aff3 << 32 | mpidr.Aff2 << 16 | mpidr.Aff1 << 8 | mpidr.Aff0


def switch_off(cpu: u64) -> None:
    cores.ask(cpu, OFF_JOB)


def off_and_on() -> u32:
    if cores.count() < 2:
        return SKIP
    holds = True
    for _ in range(3):
        for cpu in range(1, cores.count()):
            switch_off(cpu)
        for cpu in range(1, cores.count()):
            if not is_off(cpu):
                holds = False
        for cpu in range(1, cores.count()):
            if not cores.switch_on(cpu) or affinity(cpu) != AffinityState.ON:
                holds = False
            if psci(Psci.CPU_ON_64, cpu, u64(secondary_start()), cpu) != u64(PsciStatus.ALREADY_ON):
                holds = False
    return verdict(holds)


def contended() -> u32:
    """All switch the same CPU on: one of them does it."""
    if cores.count() < 2:
        return SKIP
    switch_off(1)
    holds = is_off(1)
    cores.expect(1)
    for cpu in range(2, cores.count()):
        cores.ask(cpu, ON_JOB)
    winners = u64(switch_first() == PsciStatus.SUCCESS)
    for cpu in range(2, cores.count()):
        if not cores.wait(cpu):
            holds = False
        if cores.result(cpu) == PsciStatus.SUCCESS:
            winners += 1
        elif cores.result(cpu) != u64(PsciStatus.ALREADY_ON):
            holds = False
    return verdict(holds and winners == 1 and cores.wait(1) and cores.run(1, NUMBER_JOB) == 1)


def switch_first() -> u64:
    return psci(Psci.CPU_ON_64, 1, u64(secondary_start()), 1)


def entry_state() -> u32:
    """As the standard wants a CPU that begins."""
    if cores.count() < 2:
        return SKIP
    switch_off(1)
    if not is_off(1):
        return verdict(False)
    found = cores.probe(1, probe_entry_start())
    return verdict(found == 0 and is_off(1) and cores.switch_on(1))


def suspended() -> u32:
    """Ends with an interrupt that PSTATE masks."""
    send(1)
    status = psci(Psci.CPU_SUSPEND_64, 0, u64(secondary_start()), _CONTEXT)
    return verdict(status == PsciStatus.SUCCESS and finish(take()) == 1)


# What else there is.


def smccc_version() -> u32:
    version = psci(Smccc.VERSION, 0, 0, 0)
    return SKIP if version == NOT_SUPPORTED else verdict(version == VERSION_1_2)


def random_numbers() -> u32:
    """The size is checked, what was not asked for is 0, and no two are the same."""
    version = psci(Trng.VERSION, 0, 0, 0)
    if version == NOT_SUPPORTED:
        return SKIP
    refused = u64(PsciStatus.INVALID_PARAMETERS)
    holds = psci(Trng.RND64, 0, 0, 0) == refused and psci(Trng.RND64, _RNDS_MAX + 1, 0, 0) == refused
    status, a, b, c = hvc(Trng.RND64, 9)
    holds = holds and status == 0 and a == 0 and b == 0 and c < 1 << 9
    _, a, b, c = hvc(Trng.RND64, _RNDS_MAX)
    _, d, e, f = hvc(Trng.RND64, _RNDS_MAX)
    return verdict(holds and a != d and b != e and c != f)


def vendor() -> u32:
    w0, w1, w2, w3 = hvc(VendorCall.CALL_UID)
    if w0 == NOT_SUPPORTED:
        return SKIP
    first = w0 == KVM_UID_WORDS[0] and w1 == KVM_UID_WORDS[1]
    return verdict(first and w2 == KVM_UID_WORDS[2] and w3 == KVM_UID_WORDS[3])


NUMBER_JOB = 2
OFF_JOB = 3
ON_JOB = 4

CHECKS = (
    ("PSCI version", versions),
    ("PSCI unknown", unknown),
    ("PSCI features", features),
    ("PSCI migrate", migrate_info),
    ("PSCI affinities", affinities),
    ("own numbers", own_numbers),
    ("off and on", off_and_on),
    ("contended CPU_ON", contended),
    ("state at entry", entry_state),
    ("suspended", suspended),
    ("SMCCC version", smccc_version),
    ("random numbers", random_numbers),
    ("vendor", vendor),
)
