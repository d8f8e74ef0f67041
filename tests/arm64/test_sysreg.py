# SPDX-License-Identifier: Apache-2.0
"""The table of system registers against the assembler's own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from gz.arm64.registers import MPIDR_EL1
from gz.arm64.syndrome import SYSREG_MASK, SysRegTrap, register_iss
from gz.arm64.sysreg import TABLE, SysRegs, sysreg

MARCH = "armv9.5-a+sme+rng+memtag+profile+brbe"
"""Makes the assembler know every register of the table."""


def assemble(directory: Path, lines: list[str]) -> tuple[list[int], dict[int, str]]:
    """The words of the lines, and the complaints by index of the line (then there are no words)."""
    source, output = directory / "registers.s", directory / "registers.o"
    source.write_text("".join(f"{line}\n" for line in lines))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ziglang", "clang", "-target", "aarch64-none-elf", f"-march={MARCH}"),
            *("-ferror-limit=0", "-c", str(source), "-o", str(output)),
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    found = re.findall(r"registers\.s:(\d+):\d+: error: (.*)", done.stderr)
    complaints = {int(line) - 1: text for line, text in found}
    if done.returncode != 0:
        assert complaints, done.stderr
        return [], complaints
    with output.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".text")
        assert section is not None
        text = section.data()
    return [int.from_bytes(text[i : i + 4], "little") for i in range(0, len(text), 4)], {}


def test_encodings(tmp_path: Path) -> None:
    registers = list(TABLE.values())
    reading = [("mrs x0, {}" if register.access != "wo" else "msr {}, x0") for register in registers]
    by_name, complaints = assemble(tmp_path, [line.format(r.name) for line, r in zip(reading, registers, strict=True)])
    assert not complaints
    by_number, complaints = assemble(
        tmp_path, [line.format(r.encoding) for line, r in zip(reading, registers, strict=True)]
    )
    assert not complaints
    differing = [r.name for r, a, b in zip(registers, by_name, by_number, strict=True) if a != b]
    assert not differing
    assert len(by_name) == len(TABLE) > 400


@pytest.mark.parametrize(
    ("access", "forbidden"), [("ro", "msr {}, x0"), ("wo", "mrs x0, {}")], ids=["read-only", "write-only"]
)
def test_access_refused(tmp_path: Path, access: str, forbidden: str) -> None:
    registers = [register for register in TABLE.values() if register.access == access]
    _, complaints = assemble(tmp_path, [forbidden.format(register.name) for register in registers])
    accepted = [register.name for i, register in enumerate(registers) if i not in complaints]
    assert not accepted


def test_access_granted(tmp_path: Path) -> None:
    registers = [register for register in TABLE.values() if register.access == "rw"]
    _, complaints = assemble(tmp_path, [f"msr {register.name}, x0" for register in registers])
    assert not {registers[i].name: text for i, text in complaints.items()}


def test_names_are_in_one_group() -> None:
    groups = [name for group in SysRegs.__bases__ for name in vars(group) if not name.startswith("_")]
    assert len(groups) == len(set(groups)) == len(TABLE)


def test_encodings_differ() -> None:
    """Only a read-only and a write-only register may share one."""
    seen: dict[int, str] = {}
    for register in TABLE.values():
        other = seen.setdefault(register.index, register.name)
        if other != register.name:
            assert {TABLE[other].access, register.access} == {"ro", "wo"}


def test_class_and_instance() -> None:
    assert SysRegs.HCR_EL2.encoding == "S3_4_C1_C1_0"
    assert SysRegs.HCR_EL2 is TABLE["HCR_EL2"]
    with pytest.raises(TypeError, match="HCR_EL2"):
        _ = sysreg.HCR_EL2
    with pytest.raises(TypeError, match="HCR_EL2"):
        sysreg.HCR_EL2 = 0


def test_iss_of_a_trapped_access(tmp_path: Path) -> None:
    """The fields of the ISS are those of the instruction, in another order."""
    register = SysRegs.ICC_SGI1R_EL1
    (word,), _ = assemble(tmp_path, [f"msr {register.name}, x7"])
    iss = SysRegTrap(register_iss(register), Rt=word & 31)
    assert iss.Op0 == 2 + (word >> 19 & 1)
    assert (iss.Op1, iss.CRn, iss.CRm, iss.Op2) == (
        word >> 16 & 7,
        word >> 12 & 15,
        word >> 8 & 15,
        word >> 5 & 7,
    )
    assert (iss.Rt, iss.Read) == (7, 0)
    assert int(iss) & SYSREG_MASK == register_iss(register)


def test_every_register_has_its_own_iss() -> None:
    assert len({register_iss(r) for r in TABLE.values()}) == len({r.index for r in TABLE.values()})
    assert all(register_iss(r) & ~SYSREG_MASK == 0 for r in TABLE.values())


def test_affinity_fields() -> None:
    assert int(MPIDR_EL1(Aff3=0xFF, Aff2=0xFF, Aff1=0xFF, Aff0=0xFF)) == 0xFF_00FF_FFFF
