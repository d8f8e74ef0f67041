# SPDX-License-Identifier: Apache-2.0
"""Each register that has a name has one fate in guests, and a reason for it."""

from __future__ import annotations

from collections import Counter

from gz.arm64.sysreg import TABLE, SysReg
from gz.core.context import EL1_REGISTERS, KEY_REGISTERS
from gz.core.identification import IDENTITIES
from gz.core.register_policy import DISPOSITIONS, Fate, disposition_of
from gz.core.sysregs import POLICY


def test_each_register_has_one_row() -> None:
    rows: Counter[str] = Counter(identity.register.name for identity in IDENTITIES)
    rows.update(policy.register.name for policy in POLICY if isinstance(policy.register, SysReg))
    rows.update(name for row in DISPOSITIONS for name in row.registers)
    assert {name: rows[name] for name in {*TABLE, *rows} if rows[name] != 1} == {}
    assert all(row.reason for row in DISPOSITIONS)


def test_what_is_called_own_is_switched() -> None:
    """Or it is part of PSTATE, of the timer, the vectors or the virtual CPU interface."""
    switched = {register.name for register in (*EL1_REGISTERS, *KEY_REGISTERS)}
    own = {name for row in DISPOSITIONS if row.fate is Fate.OWN for name in row.registers} - switched
    assert not [name for name in own if not name.startswith(("ICC_", "CNTV_")) and TABLE[name].crn not in (1, 0, 4)]


def test_all_of_el2_is_undefined() -> None:
    for name, register in TABLE.items():
        row = disposition_of(register)
        if register.op1 >= 4:
            assert row is not None and row.fate is Fate.UNDEFINED, name
