# SPDX-License-Identifier: Apache-2.0
"""Every owner's calls by HVC and SMC, with and without arguments, and every immediate: each comes back.

A guest must get "not supported" for all that is not for guests, the host's calls among them, whatever the arguments.
Prints the calls that answer something else when x1-x7 are 0, then counts.
"""

from __future__ import annotations

from enum import IntEnum

from gz.abi.calls import CALL_COUNT, SMC32_BASE, SMC64_BASE
from gz.arm64.insn import hvc, smc
from gz.arm64.psci import PSCI_LAST, Psci
from gz.arm64.smccc import NOT_SUPPORTED, FunctionId, Owner
from gz.arm64.syndrome import UNDEFINED
from gz.bits import Struct, Va, storage, u32, u64
from gz.metal import export, log, unroll
from payloads import exceptions, interrupts, start  # noqa: F401 - parts of every payload
from payloads.random import random, seed
from payloads.slot import run

OWNERS = 64
#: Function numbers tried of each owner: PSCI and its neighbours, TRNG, the host's calls, general queries.
NUMBERS = ((0, 0x24), (0x50, 0x54), (0x1000, 0x1000 + CALL_COUNT), (0x8000, 0x8001), (0xFF00, 0xFF04))
RANDOM_CALLS = 4096
_HVC = 0xD400_0002
_SMC = 0xD400_0003
_IMMEDIATE = 5
_IMMEDIATES = 1 << 16
_STEP = 251
_SEED = 88172645463325252
_NOT_SUPPORTED = NOT_SUPPORTED & 0xFFFF_FFFF


class Conduit(IntEnum):
    HVC = 0
    SMC = 1


class Tally(Struct):
    calls: u32
    not_supported: u32
    undefined: u32
    answered: u32


TALLY = storage(Tally)


def ends_the_run(function: u32) -> bool:
    """PSCI calls that a lone CPU would not come back from."""
    identifier = FunctionId(function)
    if identifier.OWNER != Owner.STANDARD_SECURE or identifier.NUMBER > PSCI_LAST:
        return False
    plain = u32(identifier.replace(SMC64=0))
    for psci in unroll(
        (
            Psci.CPU_SUSPEND,
            Psci.CPU_OFF,
            Psci.SYSTEM_OFF,
            Psci.SYSTEM_RESET,
            Psci.CPU_FREEZE,
            Psci.CPU_DEFAULT_SUSPEND,
            Psci.SYSTEM_SUSPEND,
            Psci.SYSTEM_RESET2,
        )
    ):
        if plain == psci:
            return True
    return False


def call(conduit: Conduit, function: u32, scale: u64) -> u64:
    """One call, its arguments random numbers times `scale`; counted. Gives x0."""
    a, b, c = random() * scale, random() * scale, random() * scale
    x0: u64 = 0
    if conduit == Conduit.HVC:
        x0, _, _, _ = hvc(function, a, b, c, b, a, c, a)
    else:
        x0, _, _, _ = smc(function, a, b, c, b, a, c, a)
    TALLY.calls += 1
    if exceptions.taken() == UNDEFINED:
        TALLY.undefined += 1
    elif u32(x0) == _NOT_SUPPORTED:
        TALLY.not_supported += 1
    else:
        TALLY.answered += 1
        if scale == 0:
            log(f"function {function:#x} answers {x0:#x}")
    return x0


def discover(conduit: Conduit) -> None:
    for owner in range(OWNERS):
        for wide in range(2):
            for first, end in unroll(NUMBERS):
                for number in range(first, end):
                    function = u32(1 << 31 | wide << 30 | owner << 24 | number)
                    if not ends_the_run(function):
                        call(conduit, function, 0)


def disturb(conduit: Conduit) -> None:
    """Random functions with random arguments."""
    for _ in range(RANDOM_CALLS):
        function = u32(random())
        if not ends_the_run(function):
            call(conduit, function, 1)


def host_calls(conduit: Conduit) -> None:
    """The host's own calls with random arguments."""
    for base in unroll((SMC32_BASE, SMC64_BASE)):
        for index in range(CALL_COUNT):
            call(conduit, u32(base + index), 1)


def immediates(conduit: Conduit) -> None:
    """The instruction with other immediates than 0, which are no calls of the convention."""
    instruction = u32(_HVC if conduit == Conduit.HVC else _SMC)
    for immediate in range(1, _IMMEDIATES, _STEP):
        x0, esr = run(instruction | u32(immediate) << _IMMEDIATE, Psci.VERSION)
        TALLY.calls += 1
        if esr == UNDEFINED:
            TALLY.undefined += 1
        elif u32(x0) == _NOT_SUPPORTED:
            TALLY.not_supported += 1
        else:
            TALLY.answered += 1


def report() -> None:
    """A line of counts, which begin again."""
    log(
        f"{TALLY.calls} calls, {TALLY.not_supported} not supported, {TALLY.undefined} undefined, "
        f"{TALLY.answered} answered"
    )
    TALLY.calls = 0
    TALLY.not_supported = 0
    TALLY.undefined = 0
    TALLY.answered = 0


@export
def payload(tree: Va) -> None:
    seed(_SEED)
    exceptions.expect()
    for name, conduit in unroll((("hvc", Conduit.HVC), ("smc", Conduit.SMC))):
        log(f"{name}: known numbers without arguments")
        discover(conduit)
        report()
        log(f"{name}: the host's calls")
        host_calls(conduit)
        report()
        log(f"{name}: random calls")
        disturb(conduit)
        report()
        log(f"{name}: immediates")
        immediates(conduit)
        report()
