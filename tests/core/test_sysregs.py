# SPDX-License-Identifier: Apache-2.0
"""Every trapped register number of the op space: a value, nothing, or undefined; and what guests read about the CPU."""

from __future__ import annotations

import ctypes
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from el2 import Machine
from gic_model import Interface
from test_vgic import address

import gz.core.identification as identification
import gz.core.sysregs as sysregs
import gz.core.vgic_reset as vgic_reset
from gz.arm64.syndrome import SysRegTrap, register_iss
from gz.arm64.sysreg import TABLE
from gz.core.context import Context
from gz.core.outcome import Outcome
from gz.core.vcpu import Vcpu
from gz.core.vm import Vm

WORD = (1 << 64) - 1
LOADED = 4  # Policy.access of what comes into the CPU with the first access
CORTEX_A72 = {
    "ID_AA64PFR0_EL1": 0x0000_0000_0100_2222,
    "ID_AA64DFR0_EL1": 0x0000_0000_1030_5106,
    "ID_AA64ISAR0_EL1": 0x0000_0000_0001_1120,
    "ID_AA64MMFR0_EL1": 0x0000_0000_0000_1124,
}


class Trapped:
    def __init__(self, *roots: Callable[..., Any]) -> None:
        self.machine = Machine(sysregs.access, vgic_reset.create_distributor, vgic_reset.create_vcpu, *roots)
        self.jit = self.machine.jit
        self.vm_frame = self.jit.buffer(Vm.size)
        self.frame = self.jit.buffer(4096)
        self.redistributor = self.jit.buffer(0x2_0000)

    def start(self) -> None:
        self.machine.reset()
        Interface(self.jit)
        ctypes.memset(self.vm_frame.address, 0, Vm.size)
        self.vm: Any = Vm.view(self.vm_frame.memory)
        self.cpu: Any = self.jit.storage("gz.core.cpu.CPUS")[0]
        cpu = self.cpu
        cpu.redistributor = self.redistributor.address
        ctypes.memset(self.frame.address, 0, 4096)
        self.vcpu: Any = Vcpu.view(self.frame.memory)
        self.vcpu.vm = self.vm_frame.address
        self.vcpu.context.cpu = address(cpu)
        self.vm.vcpus[0] = self.frame.address
        self.jit.fn(vgic_reset.create_distributor)(self.vm_frame.address, 0x0800_0000, 0x1_0000)
        self.x = (ctypes.c_uint64 * 31).from_address(self.frame.address + Context.offset("x"))
        self._access = self.jit.raw("gz.core.sysregs.access")

    def call(self, function: Callable[..., Any]) -> None:
        """One of the roots that take the vCPU and give nothing."""
        self.jit.fn(function)(self.frame.address)

    def interrupt(self, function: Callable[..., Any]) -> bool:
        return bool(self.jit.fn(function)(self.frame.address))

    def access(self, iss: int) -> int:
        return self._access(self.frame.address, iss)

    def read(self, name: str, rt: int = 3) -> int | None:
        outcome = self.access(register_iss(TABLE[name]) | rt << 5 | 1)
        assert outcome in (Outcome.SKIP, Outcome.UNDEFINED)
        return self.x[rt] if outcome == Outcome.SKIP else None

    def write(self, name: str, value: int, rt: int = 3) -> bool:
        self.x[rt] = value
        return self.access(register_iss(TABLE[name]) | rt << 5) == Outcome.SKIP


@pytest.fixture(scope="module")
def trapped_once() -> Trapped:
    return Trapped()


@pytest.fixture
def trapped(trapped_once: Trapped) -> Trapped:
    trapped_once.start()
    return trapped_once


def test_the_whole_op_space(trapped: Trapped) -> None:
    """Nothing but the rows of the policy and the identification space is answered; no other register changes."""
    rows = {policy.key: policy.access for policy in sysregs.POLICY}
    assert len(rows) == len(sysregs.POLICY)
    rng = random.Random(1)
    answered = 0
    for op0, op1, crn, crm, op2 in itertools.product(range(4), range(8), range(16), range(16), range(8)):
        key = int(SysRegTrap(Op0=op0, Op1=op1, CRn=crn, CRm=crm, Op2=op2))
        identity = (op0, op1, crn) == (3, 0, 0)
        for is_read in (0, 1):
            rt = rng.randrange(31)
            before = [rng.getrandbits(64) for _ in range(31)]
            self_made = key in rows
            if self_made and not is_read and op0 == 3 and crn == 14:
                before[rt] = 0  # a timer that stays off
            self_rows = rows.get(key, 0)
            trapped.x[:] = before
            outcome = trapped.access(key | rt << 5 | is_read)
            allowed = bool(is_read) if identity else bool(self_rows & (1 if is_read else 2))
            if self_rows == LOADED:
                assert outcome == Outcome.UNDEFINED, "this CPU has none"
                continue
            assert outcome == (Outcome.SKIP if allowed else Outcome.UNDEFINED), TABLE
            after = list(trapped.x)
            if is_read and allowed:
                before[rt] = after[rt]
            assert after == before
            answered += allowed
    assert answered == 128 + sum(access.bit_count() for access in rows.values() if access != LOADED)


def test_the_zero_register(trapped: Trapped) -> None:
    before = list(trapped.x)
    for policy in sysregs.POLICY:
        for is_read in (0, 1):
            trapped.access(policy.key | 31 << 5 | is_read)
    for crm, op2 in itertools.product(range(16), range(8)):
        trapped.access(int(SysRegTrap(Op0=3, CRm=crm, Op2=op2, Rt=31, Read=1)))
    assert list(trapped.x) == before


def field(value: int, low: int) -> int:
    return value >> low & 0xF


@pytest.mark.parametrize("raw", [0, WORD, *(n * 0x1111_1111_1111_1111 for n in (1, 2, 3, 4, 9))])
def test_hidden_features(trapped: Trapped, raw: int) -> None:
    """Whatever the CPU says: what the core doesn't keep up reads zero."""
    for name in TABLE:
        if name.startswith(("ID_", "MVFR")):
            setattr(trapped.jit.sysregs, name, raw)
    value = {name: trapped.read(name) for name in TABLE if name.startswith(("ID_", "MVFR"))}
    assert all(v is not None for v in value.values())
    hidden = {
        "ID_AA64PFR0_EL1": (8, 12, 28, 36, 40, 44, 52),  # EL2, EL3, RAS, SEL2, MPAM, AMU, RME
        "ID_AA64PFR1_EL1": (8, 12, 16, 24, 28, 36),  # MTE, RAS, MPAM, SME, RNDR_trap, NMI
        "ID_AA64DFR0_EL1": (4, 16, 24, 32, 40, 44, 48, 52),  # trace, SPE, TRBE, BRBE
        "ID_AA64ISAR0_EL1": (24,),  # TME
        "ID_AA64ISAR1_EL1": (56, 60),  # XS, LS64
        "ID_AA64ISAR2_EL1": (0, 16),  # WFxT, MOPS
        "ID_AA64MMFR0_EL1": (32, 36, 40, 44, 56, 60),  # stage 2 granules, ExS, FGT, ECV
        "ID_AA64MMFR1_EL1": (4, 8, 16, 28, 32, 40, 56),  # VMID, VHE, LOR, XNX, TWED, HCX, CMOW
        "ID_AA64MMFR2_EL1": (12, 24, 40, 56),  # IESB, NV, FWB, EVT
        "ID_AA64ZFR0_EL1": (8, 28, 48, 60),
        "ID_AA64SMFR0_EL1": range(0, 64, 4),
        "ID_AA64DFR1_EL1": range(0, 64, 4),
        "ID_AA64MMFR3_EL1": range(0, 64, 4),
        "ID_AA64MMFR4_EL1": range(0, 64, 4),
    }
    for name, fields in hidden.items():
        for low in fields:
            assert field(value[name] or 0, low) == 0, f"{name} bit {low}"
    assert field(value["ID_AA64PFR0_EL1"] or 0, 4) == 1
    assert field(value["ID_AA64PFR0_EL1"] or 0, 24) == 1
    assert field(value["ID_AA64PFR0_EL1"] or 0, 56) == min(raw & 0xF, 1)
    assert field(value["ID_AA64DFR0_EL1"] or 0, 0) == min(raw & 0xF, 8)
    assert field(value["ID_AA64DFR0_EL1"] or 0, 8) == (0 if raw & 0xF < 4 or raw & 0xF == 15 else min(raw & 0xF, 8))
    assert field(value["ID_AA64MMFR0_EL1"] or 0, 0) == min(raw & 0xF, 2)
    assert field(value["ID_AA64MMFR1_EL1"] or 0, 0) == min(raw & 0xF, 2)
    assert value["ID_AA64ISAR0_EL1"] == raw & ~(0xF << 24 | 0xF)


def test_a_real_cpu(trapped: Trapped) -> None:
    for name, raw in CORTEX_A72.items():
        setattr(trapped.jit.sysregs, name, raw)
    assert trapped.read("ID_AA64PFR0_EL1") == 0x0100_0012
    assert trapped.read("ID_AA64DFR0_EL1") == 0xF0_1030_5006
    assert trapped.read("ID_AA64ISAR0_EL1") == 0x0001_1120
    assert trapped.read("ID_AA64MMFR0_EL1") == 0x1122 & ~0xF000
    assert not trapped.write("ID_AA64PFR0_EL1", 0)


def test_reasons() -> None:
    assert all(policy.reason for policy in sysregs.POLICY)
    assert all(identity.reason for identity in identification.IDENTITIES)
    assert len({identity.number for identity in identification.IDENTITIES}) == len(identification.IDENTITIES)


def test_sgi_registers(trapped: Trapped) -> None:
    assert trapped.write("ICC_SGI1R_EL1", 5 << 24 | 1)
    assert trapped.vcpu.gic.private.latch == 1 << 5
    assert trapped.vcpu.gic.dirty == 1
    assert trapped.write("ICC_SGI0R_EL1", 6 << 24 | 1)
    assert trapped.write("ICC_ASGI1R_EL1", 7 << 24 | 1)
    assert trapped.vcpu.gic.private.latch == 1 << 5 | 1 << 6 | 1 << 7
    assert trapped.read("ICC_SGI1R_EL1") is None


def test_physical_timer_registers(trapped: Trapped) -> None:
    trapped.jit.sysregs.CNTPCT_EL0 = 1000
    assert trapped.write("CNTP_CVAL_EL0", 1500)
    assert trapped.read("CNTP_CVAL_EL0") == 1500
    assert trapped.read("CNTP_TVAL_EL0") == 500
    assert trapped.write("CNTP_CTL_EL0", 1)
    assert trapped.read("CNTP_CTL_EL0") == 1
    assert trapped.jit.sysregs.CNTHP_CVAL_EL2 == 1500
    trapped.jit.sysregs.CNTPCT_EL0 = 1501
    assert trapped.read("CNTP_CTL_EL0") == 5
    assert trapped.read("CNTP_TVAL_EL0") == 0xFFFF_FFFF
    assert trapped.write("CNTP_TVAL_EL0", 0xFFFF_FFFF)
    assert trapped.read("CNTP_CVAL_EL0") == 1500
    assert trapped.write("CNTP_TVAL_EL0", 0x1_0000_0010)
    assert trapped.read("CNTP_CVAL_EL0") == 1501 + 16
    assert trapped.write("CNTP_CTL_EL0", WORD)
    assert trapped.read("CNTP_CTL_EL0") == 3


def test_set_way_loses_nothing(trapped: Trapped) -> None:
    """M12: an invalidation by a guest cleans as well."""
    trapped.jit.clear_events()
    for op2, crm, expected in ((2, 6, "dc cisw"), (2, 14, "dc cisw"), (2, 10, "dc csw")):
        trapped.x[0] = 0x1234
        assert trapped.access(int(SysRegTrap(Op0=1, CRn=7, CRm=crm, Op2=op2))) == Outcome.SKIP
        assert trapped.jit.events[-1] == (expected, 0x1234)
