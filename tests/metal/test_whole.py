# SPDX-License-Identifier: Apache-2.0
"""One program in Python through all of the compiler: in this process, and entered at EL2 on QEMU."""

from __future__ import annotations

import importlib.util
import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from gz.metal import Program, image
from gz.metal.assembly import pieces
from gz.metal.jit import Jit, Panic
from gz.metal.target import CORE


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


hello = load("bare_hello")


def line_of(function: Any, text: str) -> int:
    lines, first = inspect.getsourcelines(function)
    return first + next(i for i, line in enumerate(lines) if text in line)


@pytest.fixture(scope="module")
def jit() -> Jit:
    return Program(roots=[hello.fill, hello.write_number]).jit()


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> image.Image:
    ir = Program(roots=[hello.start, hello.write, hello.write_number, hello.stop]).ir(CORE)
    return image.build(ir, pieces("bare_hello"), tmp_path_factory.mktemp("whole"))


def test_in_this_process(jit: Jit) -> None:
    notes = hello.Notes.view(bytearray(hello.Notes.size))
    assert jit.fn(hello.fill)(notes, 0) == sum(p * p for p in hello.PRIMES)
    assert list(notes.squares) == [p * p for p in hello.PRIMES]
    assert jit.fn(hello.fill)(notes, 1) == sum(3 * p for p in hello.PRIMES)
    assert notes.count == 16
    with pytest.raises(Panic) as caught:
        jit.fn(hello.fill)(notes, 2)
    assert caught.value.line == line_of(hello.fill, "STEPS[step]")
    assert caught.value.file.endswith("bare_hello.py")


def test_debug_information_names_the_python_source(built: image.Image) -> None:
    with built.elf.open("rb") as stream:
        elf = ELFFile(stream)
        table = elf.get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        at = {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}
        dwarf = elf.get_dwarf_info()
        lines: dict[int, tuple[str, int]] = {}
        names: set[tuple[object, bytes]] = set()
        for unit in dwarf.iter_CUs():
            program = dwarf.line_program_for_CU(unit)
            assert program is not None
            files = [entry.name.decode() for entry in program["file_entry"]]
            for entry in program.get_entries():
                if entry.state is not None and not entry.state.end_sequence:
                    shift = 0 if program["version"] >= 5 else 1
                    lines.setdefault(entry.state.address, (files[entry.state.file - shift], entry.state.line))
            for part in unit.iter_DIEs():
                names.add((part.tag, part.attributes["DW_AT_name"].value if "DW_AT_name" in part.attributes else b""))
    file, line = lines[at["start"]]
    assert file.endswith("bare_hello.py") and line == line_of(hello.start, "def start")
    assert ("DW_TAG_structure_type", b"Notes") in names and ("DW_TAG_member", b"squares") in names
    assert ("DW_TAG_formal_parameter", b"step") in names


@pytest.mark.skipif(shutil.which("qemu-system-aarch64") is None, reason="needs qemu-system-aarch64")
def test_at_el2(built: image.Image, jit: Jit) -> None:
    machine = "-M virt,virtualization=on,gic-version=3 -cpu cortex-a76 -m 128 -nic none -display none -serial stdio"
    command = ["qemu-system-aarch64", *machine.split(), "-kernel", built.flat]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    squares = sum(p * p for p in hello.PRIMES)
    triples = sum(3 * p for p in hello.PRIMES)
    with pytest.raises(Panic) as same:
        jit.fn(hello.fill)(hello.Notes.view(bytearray(hello.Notes.size)), 2)
    assert done.stderr == ""
    assert done.stdout.replace("\r", "").splitlines() == [
        "el2 says hello",
        f"squares {squares}, triples {triples}, count 16",
        str(same.value),
    ]
