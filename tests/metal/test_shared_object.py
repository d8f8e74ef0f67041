# SPDX-License-Identifier: Apache-2.0
"""Shared objects for user space: callable from CPython, without libc."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path

import pytest
from elftools.elf.dynamic import DynamicSection
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from gz.metal import shared_object
from gz.metal.elf import CheckError
from gz.metal.target import LINUX_ARM64, LINUX_X86_64, NATIVE, Target

BODY = """
@state = internal global [4 x i64] zeroinitializer, align 8
define i64 @count(i64 %by) nounwind {
  %old = atomicrmw add ptr @state, i64 %by acq_rel, align 8
  ret i64 %old
}
define void @wait_for(ptr %flag) nounwind {
  br label %look
look:
  %value = load atomic i64, ptr %flag acquire, align 8
  %still = icmp eq i64 %value, 0
  br i1 %still, label %look, label %done
done:
  ret void
}
"""


def text(target: Target, body: str = BODY) -> str:
    return f'target datalayout = "{target.datalayout}"\ntarget triple = "{target.triple}"\n{body}'


@pytest.mark.parametrize("target", [LINUX_ARM64, LINUX_X86_64], ids=lambda target: target.name)
def test_exports_and_needs_nothing(target: Target, tmp_path: Path) -> None:
    path = shared_object.build(text(target), target, tmp_path, "probe")
    assert path.name == "libprobe.so"
    with path.open("rb") as stream:
        elf = ELFFile(stream)
        machine = {"x86_64-linux-gnu": "EM_X86_64", "aarch64-linux-gnu": "EM_AARCH64"}
        assert elf["e_machine"] == machine[target.triple]
        table, dynamic = elf.get_section_by_name(".dynsym"), elf.get_section_by_name(".dynamic")
        assert isinstance(table, SymbolTableSection) and isinstance(dynamic, DynamicSection)
        symbols = {symbol.name for symbol in table.iter_symbols()}
        assert {"count", "wait_for"} <= symbols and "state" not in symbols
        assert not [tag for tag in dynamic.iter_tags() if tag.entry.d_tag == "DT_NEEDED"]


def test_two_directories_give_the_same_bytes(tmp_path: Path) -> None:
    first = shared_object.build(text(LINUX_ARM64), LINUX_ARM64, tmp_path / "a", "probe")
    second = shared_object.build(text(LINUX_ARM64), LINUX_ARM64, tmp_path / "b" / "c", "probe")
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.skipif(NATIVE is None, reason="no metal for this machine's user space")
def test_python_calls_it_and_goes_on_meanwhile(tmp_path: Path) -> None:
    assert NATIVE is not None
    library = ctypes.CDLL(str(shared_object.build(text(NATIVE), NATIVE, tmp_path, "probe")))
    library.count.restype, library.count.argtypes = ctypes.c_uint64, [ctypes.c_uint64]
    assert (library.count(5), library.count(1)) == (0, 5)
    flag = ctypes.c_uint64(0)
    thread = threading.Thread(target=library.wait_for, args=(ctypes.byref(flag),))
    thread.start()
    assert thread.is_alive()
    flag.value = 1
    thread.join(10)
    assert not thread.is_alive()


def test_what_nothing_defines_is_an_error(tmp_path: Path) -> None:
    body = "declare void @puts(ptr)\ndefine void @say(ptr %text) { call void @puts(ptr %text)\n ret void\n}"
    with pytest.raises(CheckError, match=r"libprobe.so needs puts, which nothing defines"):
        shared_object.build(text(LINUX_ARM64, body), LINUX_ARM64, tmp_path, "probe")
    assert not (tmp_path / "libprobe.so").exists()
