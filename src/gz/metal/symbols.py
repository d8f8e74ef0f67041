# SPDX-License-Identifier: Apache-2.0
"""Names and lines for addresses of a linked image: what turns the core's last words into a Python backtrace."""

from __future__ import annotations

import bisect
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gz.metal.object_file import STT_FUNC, STT_NOTYPE, ObjectFile

if TYPE_CHECKING:
    from elftools.dwarf.lineprogram import LineProgram

#: Where a panic names code (gz.core.panic).
_ADDRESS = re.compile(r"((?:called from|PC|x30) +)(0x[0-9a-f]+)(?: \S+\+0x[0-9a-f]+)?")


def _files(program: LineProgram) -> dict[int, str]:
    """File number of a line program to path (DWARF 5, 6.2.4: from 0 there, from 1 before)."""
    first = 0 if program["version"] >= 5 else 1
    directories = [name.decode() for name in program["include_directory"]]
    found: dict[int, str] = {}
    for number, file in enumerate(program["file_entry"], first):
        name, place = file.name.decode(), file.dir_index - first
        inside = 0 <= place < len(directories) and directories[place] not in ("", ".") and "/" not in name
        found[number] = f"{directories[place]}/{name}" if inside else name
    return found


class Symbols:
    """The symbols and line table of an image's ELF file."""

    def __init__(self, elf: Path) -> None:
        self.path = elf

    @cached_property
    def functions(self) -> list[tuple[int, str]]:
        """Address and name, ascending."""
        # Labels of assembly have no type; "$x" and its like mark code and data.
        symbols = [symbol for symbol in ObjectFile(self.path).symbols if symbol.type in (STT_FUNC, STT_NOTYPE)]
        found = [(symbol.value, symbol.name) for symbol in symbols if symbol.name and not symbol.name.startswith("$")]
        return sorted(row for row in found if row[0] in self._text)

    @cached_property
    def _text(self) -> range:
        section = ObjectFile(self.path).section(".text")
        assert section is not None
        return range(section.address, section.address + section.size)

    @cached_property
    def _lines(self) -> list[tuple[int, str, int]]:
        """Address from which on the code is of a file and line; line 0: of none."""
        from elftools.elf.elffile import ELFFile  # takes long to import, and is for panics only

        found: list[tuple[int, str, int]] = []
        with self.path.open("rb") as file:
            dwarf = ELFFile(file).get_dwarf_info()
            for unit in dwarf.iter_CUs():
                program = dwarf.line_program_for_CU(unit)
                if program is None:
                    continue
                names = _files(program)
                for entry in program.get_entries():
                    state = entry.state
                    if state is None:
                        continue
                    line = 0 if state.end_sequence else state.line
                    if line or state.end_sequence:  # code without a line belongs to the line before it
                        found.append((state.address, names[state.file], line))
        # Where one sequence ends another may begin.
        return sorted(found, key=lambda row: (row[0], row[2] != 0))

    def object(self, name: str) -> tuple[int, int]:
        """A storage: bytes from the image's start, and its size. LookupError if the image has none of that name."""
        symbols = {symbol.name: symbol for symbol in ObjectFile(self.path).symbols}
        if name not in symbols:
            raise LookupError(f"{self.path} has no {name}")
        return symbols[name].value - symbols["__image_start"].value, symbols[name].size

    def function(self, address: int) -> str | None:
        """The function an address lies in."""
        index = bisect.bisect_right(self.functions, address, key=lambda row: row[0]) - 1
        return self.functions[index][1] if index >= 0 and address in self._text else None

    def line(self, address: int) -> tuple[str, int] | None:
        """File and line of the code at an address."""
        index = bisect.bisect_right(self._lines, address, key=lambda row: row[0]) - 1
        if index < 0 or address not in self._text or self._lines[index][2] == 0:
            return None
        return self._lines[index][1:]

    def describe(self, address: int) -> str | None:
        """\"gz.core.power.call (power.py:57)\", or None for what is no code of the image."""
        function, line = self.function(address), self.line(address)
        if function is None:
            return None
        return f"{function} ({line[0]}:{line[1]})" if line else function

    def annotate(self, text: str) -> str:
        """A panic's text with names behind the addresses of code."""

        def name(match: re.Match[str]) -> str:
            described = self.describe(int(match[2], 16))
            return f"{match[1]}{match[2]} {described}" if described else match[0]

        return _ADDRESS.sub(name, text)
