# SPDX-License-Identifier: Apache-2.0
"""ELF files of 64 bits, little-endian, as clang and lld write them: sections, segments, symbols, relocations."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, cast

# ELF-64 Object File Format, version 1.5: the records and their constants.
_HEADER = struct.Struct("<16s HHI QQQ I HHHHHH")
_SECTION = struct.Struct("<II QQQQ II QQ")
_SEGMENT = struct.Struct("<II QQQQQQ")
_SYMBOL = struct.Struct("<IBBH QQ")
_RELOCATION = struct.Struct("<QIIq")
_IDENTIFICATION = b"\x7fELF\x02\x01\x01"

SHT_SYMTAB, SHT_RELA, SHT_NOBITS, SHT_REL, SHT_DYNSYM, SHT_RELR = 2, 4, 8, 9, 11, 19
SHF_ALLOC, SHF_EXECINSTR = 2, 4
SHN_UNDEF, SHN_LORESERVE = 0, 0xFF00
STT_NOTYPE, STT_FUNC, STT_SECTION, STT_FILE = 0, 2, 3, 4
PT_LOAD, PT_DYNAMIC, PT_INTERP = 1, 2, 3
PF_X, PF_W = 1, 2


class Section(NamedTuple):
    """A row of the section header table."""

    name: str
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int


class Segment(NamedTuple):
    """A row of the program header table; sizes in bytes."""

    type: int
    flags: int
    offset: int
    address: int
    file_size: int


class Symbol(NamedTuple):
    """`type`: STT_…; `section`: an index, or SHN_UNDEF, or a reserved one."""

    name: str
    type: int
    section: int
    value: int
    size: int

    @property
    def defined(self) -> bool:
        """Does it lie in a section of this file?"""
        return SHN_UNDEF < self.section < SHN_LORESERVE


class Relocation(NamedTuple):
    """`offset` in the section it applies to; `symbol`: its index."""

    offset: int
    symbol: int
    type: int
    addend: int


class ObjectFile:
    """A file's contents, taken apart as they are asked for. ValueError if it is no such file."""

    def __init__(self, path: Path) -> None:
        self.data = path.read_bytes()
        if len(self.data) < _HEADER.size or not self.data.startswith(_IDENTIFICATION):
            raise ValueError(f"{path} is no little-endian ELF file of 64 bits")
        header = _HEADER.unpack_from(self.data)
        self._segments_at, self._sections_at = header[5], header[6]
        self._segment_count, self._section_count, self._names = header[10], header[12], header[13]

    @cached_property
    def sections(self) -> list[Section]:
        """The section header table."""
        rows = [
            _SECTION.unpack_from(self.data, self._sections_at + number * _SECTION.size)
            for number in range(self._section_count)
        ]
        names = cast("int", rows[self._names][4]) if rows else 0
        return [Section(self._text(names + row[0]), *row[1:8]) for row in rows]

    @cached_property
    def segments(self) -> list[Segment]:
        """The program header table."""
        rows = (
            _SEGMENT.unpack_from(self.data, self._segments_at + number * _SEGMENT.size)
            for number in range(self._segment_count)
        )
        return [Segment(type, flags, offset, address, size) for type, flags, offset, address, _, size, _, _ in rows]

    @cached_property
    def symbols(self) -> list[Symbol]:
        """The symbol table: relocations count in it."""
        return self._symbols(SHT_SYMTAB)

    @cached_property
    def dynamic_symbols(self) -> list[Symbol]:
        """What a shared object offers and needs."""
        return self._symbols(SHT_DYNSYM)

    def section(self, name: str) -> Section | None:
        """The first section of this name."""
        return next((section for section in self.sections if section.name == name), None)

    def contents(self, part: Section | Segment) -> bytes:
        """The bytes that the file has of it."""
        if isinstance(part, Segment):
            return self.data[part.offset : part.offset + part.file_size]
        return b"" if part.type == SHT_NOBITS else self.data[part.offset : part.offset + part.size]

    def executable(self) -> dict[int, Section]:
        """The sections with code, by index."""
        rows = enumerate(self.sections)
        return {number: section for number, section in rows if section.flags & SHF_EXECINSTR and section.size}

    def relocations(self, table: Section) -> Iterator[Relocation]:
        """The rows of a section of type SHT_RELA."""
        for offset, type, symbol, addend in _RELOCATION.iter_unpack(self.contents(table)):
            yield Relocation(offset, symbol, type, addend)

    def _symbols(self, kind: int) -> list[Symbol]:
        found: list[Symbol] = []
        for table in self.sections:
            if table.type == kind:
                names = self.sections[table.link].offset
                for name, info, _, section, value, size in _SYMBOL.iter_unpack(self.contents(table)):
                    found.append(Symbol(self._text(names + name), info & 0xF, section, value, size))
        return found

    def _text(self, at: int) -> str:
        return self.data[at : self.data.index(b"\0", at)].decode()
