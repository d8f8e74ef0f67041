# SPDX-License-Identifier: Apache-2.0
"""How a system register is named in an instruction (DDI 0487, C5.1.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, overload

Access = Literal["RW", "RO", "WO"]


@dataclass(frozen=True)
class SysReg:
    """One system register: encoding and what EL2 may do with it.

    As a class attribute it is the register itself, for tables; as an attribute of the instance it is the register's
    value, which exists in compiled code only.
    """

    op0: int
    op1: int
    crn: int
    crm: int
    op2: int
    access: Access = "RW"
    name: str = field(default="", compare=False)

    def __set_name__(self, owner: type, name: str) -> None:
        object.__setattr__(self, "name", name)

    @overload
    def __get__(self, instance: None, owner: type) -> SysReg: ...
    @overload
    def __get__(self, instance: object, owner: type) -> int: ...
    def __get__(self, instance: Any, owner: type) -> Any:
        if instance is None:
            return self
        raise TypeError(f"{self.name} can be read only by compiled code")

    def __set__(self, instance: object, value: int) -> None:
        raise TypeError(f"{self.name} can be written only by compiled code")

    @property
    def readable(self) -> bool:
        return self.access != "WO"

    @property
    def writable(self) -> bool:
        return self.access != "RO"

    @property
    def width(self) -> int:
        """Bits that MRS and MSR move."""
        return 64

    @property
    def assembly(self) -> str:
        """The name every assembler takes, whatever extensions it has been told of."""
        return f"S{self.op0}_{self.op1}_C{self.crn}_C{self.crm}_{self.op2}"

    @property
    def iss(self) -> int:
        """The encoding as it stands in the syndrome of a trapped access: Op0 21:20, Op2 19:17, Op1 16:14, CRn 13:10,
        CRm 4:1 (DDI 0487, ESR_EL2, ISS encoding for MSR, MRS traps)."""
        return self.op0 << 20 | self.op2 << 17 | self.op1 << 14 | self.crn << 10 | self.crm << 1
