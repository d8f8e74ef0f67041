# SPDX-License-Identifier: Apache-2.0
"""System registers as descriptors: the encoding is the only thing the compiler needs to know of one."""

from __future__ import annotations

from typing import Any, Literal, NoReturn, overload

Access = Literal["rw", "ro", "wo"]


class SysReg:
    """One system register: its MRS/MSR encoding, access right and width in bits.

    In a class it is a descriptor: on the class it is the SysReg itself, on an instance the register's value, which
    exists only in compiled code.
    """

    def __init__(
        self, op0: int, op1: int, crn: int, crm: int, op2: int, access: Access = "rw", width: int = 64
    ) -> None:
        if op0 not in (2, 3) or op1 not in range(8) or crn not in range(16) or crm not in range(16):
            raise ValueError(f"S{op0}_{op1}_C{crn}_C{crm}_{op2} is no system register")
        if op2 not in range(8) or access not in ("rw", "ro", "wo") or width not in (32, 64):
            raise ValueError(f"S{op0}_{op1}_C{crn}_C{crm}_{op2} {access} {width} is no system register")
        self.op0, self.op1, self.crn, self.crm, self.op2 = op0, op1, crn, crm, op2
        self.access, self.width = access, width
        self.name = self.encoding

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @property
    def encoding(self) -> str:
        """The name every assembler takes: S3_4_C1_C1_0."""
        return f"S{self.op0}_{self.op1}_C{self.crn}_C{self.crm}_{self.op2}"

    @property
    def index(self) -> int:
        """The encoding as a number below 0x8000."""
        return (self.op0 & 1) << 14 | self.op1 << 11 | self.crn << 7 | self.crm << 3 | self.op2

    @overload
    def __get__(self, instance: None, owner: type) -> SysReg: ...
    @overload
    def __get__(self, instance: object, owner: type) -> int: ...
    def __get__(self, instance: object | None, owner: type) -> Any:
        return self if instance is None else self._compiled_only()

    def __set__(self, instance: object, value: int) -> None:
        self._compiled_only()

    def _compiled_only(self) -> NoReturn:
        raise TypeError(f"{self.name} is a register of the CPU: only compiled functions reach it")

    def __repr__(self) -> str:
        return self.name
