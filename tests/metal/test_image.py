# SPDX-License-Identifier: Apache-2.0
"""The image: linked from text IR and assembly, held to the rules, entered at EL2 by a real boot loader."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import SymbolTableSection

from gz.metal import elf, image, zig
from gz.metal.assembly import Assembly, assembly, pieces
from gz.metal.layout import LINK_ADDRESS, PAGE, STACK_COUNT, STACK_STRIDE
from gz.metal.report import Image
from gz.metal.target import CORE

PRELUDE = f"""
target datalayout = "{CORE.datalayout}"
target triple = "{CORE.triple}"
"""

ATTRIBUTES = f"""
attributes #0 = {{ nounwind null_pointer_is_valid "no-builtins" "frame-pointer"="all"
                   "target-features"="{CORE.features}" }}
"""

HELLO = """
@text = internal constant [16 x i8] c"el2 says hello\\0A\\00", align 1
@sent = internal global i64 0, align 8
@stamp = internal global i64 81985529216486895, align 8

define internal void @put(i32 %character) noinline #0 {
  call void asm sideeffect "str ${0:w}, [$1]", "r,r,~{memory}"(i32 %character, i64 150994944)
  %old = load volatile i64, ptr @sent, align 8
  %new = add i64 %old, 1
  store volatile i64 %new, ptr @sent, align 8
  ret void
}

define hidden void @start() #0 {
entry:
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %more ]
  %place = getelementptr i8, ptr @text, i64 %i
  %byte = load i8, ptr %place, align 1
  %end = icmp eq i8 %byte, 0
  br i1 %end, label %done, label %more
more:
  %wide = zext i8 %byte to i32
  call void @put(i32 %wide)
  %next = add i64 %i, 1
  br label %loop
done:
  %stamp = load volatile i64, ptr @stamp, align 8
  %level = call i64 asm sideeffect "mrs $0, currentel", "=r"()
  %bits = lshr i64 %level, 2
  %digit = add i64 %bits, 48
  %shown = trunc i64 %digit to i32
  call void @put(i32 %shown)
  call void @put(i32 10)
  call void asm sideeffect "smc #0", "{x0},~{memory}"(i64 2214592520)
  unreachable
}
"""

HEADER = Assembly(
    """
    .section .head.text, "ax"
    .global _start
_start:
    b enter
    nop
    .quad 0, __image_size, 0xa, 0, 0, 0
    .ascii "ARM\\x64"
    .long 0
    .text
enter:
    adrp x0, __stacks_start
    add x0, x0, #0x5000
    mov sp, x0
    bl start
""",
    "boot.py",
    1,
)


def build(directory: Path, body: str, **options: Any) -> Image:
    return image.build(PRELUDE + body + ATTRIBUTES, [HEADER], directory, **options)


@pytest.fixture(scope="module")
def hello(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return build(tmp_path_factory.mktemp("hello"), HELLO)


def symbols(path: Path) -> dict[str, int]:
    with path.open("rb") as stream:
        table = ELFFile(stream).get_section_by_name(".symtab")
        assert isinstance(table, SymbolTableSection)
        return {symbol.name: symbol["st_value"] for symbol in table.iter_symbols()}


def test_header_and_layout(hello: Image) -> None:
    flat = hello.flat.read_bytes()
    found = symbols(hello.elf)
    _, _, offset, size, flags, *_ = image.HEADER.unpack_from(flat)
    assert (offset, flags) == (0, 0xA)
    assert size == found["__image_end"] - found["__image_start"] >= len(flat) + STACK_COUNT * STACK_STRIDE
    assert found["__image_start"] == found["_start"] == LINK_ADDRESS
    assert found["__stacks_end"] - found["__stacks_start"] == STACK_COUNT * STACK_STRIDE
    for name in ("text", "rodata", "data", "stacks"):
        assert found[f"__{name}_start"] % PAGE == found[f"__{name}_end"] % PAGE == 0
    stamp = found["stamp"] - LINK_ADDRESS
    assert found["__data_start"] <= found["stamp"] < found["__bss_start"] <= found["sent"] < found["__bss_end"]
    assert struct.unpack_from("<Q", flat, stamp) == (0x0123456789ABCDEF,)
    assert 0 <= found["__bss_start"] - LINK_ADDRESS - len(flat) < 16


def test_report(hello: Image) -> None:
    report = hello.report
    assert report.image_bytes == hello.flat.stat().st_size
    assert 64 <= report.text_bytes < PAGE
    assert [name for name, _ in report.worst_stack] == ["_start", "enter", "start", "put"]
    assert sum(frame for _, frame in report.worst_stack) == report.worst_stack_bytes


def test_two_directories_give_the_same_bytes(hello: Image, tmp_path: Path) -> None:
    again = build(tmp_path / "a longer name" / "below", HELLO)
    assert again.flat.read_bytes() == hello.flat.read_bytes()
    assert again.elf.read_bytes() == hello.elf.read_bytes()


def test_link_address(tmp_path: Path) -> None:
    moved = build(tmp_path, HELLO, link_address=0x4008_0000)
    assert symbols(moved.elf)["_start"] == 0x4008_0000


@pytest.mark.skipif(shutil.which("qemu-system-aarch64") is None, reason="needs qemu-system-aarch64")
def test_a_boot_loader_enters_it_at_el2(hello: Image) -> None:
    machine = "-M virt,virtualization=on,gic-version=3 -cpu cortex-a76 -m 128 -nic none -display none -serial stdio"
    command = ["qemu-system-aarch64", *machine.split(), "-kernel", hello.flat]
    done = subprocess.run(command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.replace("\r", "") == "el2 says hello\n2\n"


def refused(directory: Path, body: str, **options: Any) -> str:
    with pytest.raises(elf.CheckError) as caught:
        build(directory, body, **options)
    assert not (directory / "core.img").exists() and not (directory / "core.elf").exists()
    return str(caught.value)


def test_fp_registers_are_refused(tmp_path: Path) -> None:
    body = """
    define hidden void @start(ptr %p) nounwind {
      %v = load <4 x i32>, ptr %p, align 16
      %w = add <4 x i32> %v, %v
      store <4 x i32> %w, ptr %p, align 16
      ret void
    }"""
    assert f"start uses an FP/SIMD register at {LINK_ADDRESS >> 16:#x}" in refused(tmp_path, body)


RECURSIVE = """
    define internal i64 @even(i64 %n) noinline #0 {
      %p = load volatile i64, ptr inttoptr (i64 4096 to ptr), align 8
      %m = call i64 @odd(i64 %p)
      %r = add i64 %m, 1
      ret i64 %r
    }
    define internal i64 @odd(i64 %n) noinline #0 {
      %p = load volatile i64, ptr inttoptr (i64 4096 to ptr), align 8
      %m = call i64 @even(i64 %p)
      %r = add i64 %m, %n
      ret i64 %r
    }
    define hidden void @start(i64 %n) #0 {
      %r = call i64 @odd(i64 %n)
      store volatile i64 %r, ptr inttoptr (i64 4096 to ptr), align 8
      ret void
    }"""


def test_recursion_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path, RECURSIVE) == "recursion: odd → even → odd"


TABLE = """
    @handlers = internal constant [2 x ptr] [ptr @small, ptr @medium], align 8
    @others = internal constant [2 x ptr] [ptr @small, ptr @large], align 8
    define internal i64 @small(i64 %n) #0 {
      ret i64 %n
    }
    define internal i64 @medium(i64 %n) #0 {
      %room = alloca [64 x i64], align 8
      %place = getelementptr [64 x i64], ptr %room, i64 0, i64 %n
      store volatile i64 %n, ptr %place, align 8
      %r = load volatile i64, ptr %room, align 8
      ret i64 %r
    }
    define internal i64 @large(i64 %n) #0 {
      %room = alloca [128 x i64], align 8
      %place = getelementptr [128 x i64], ptr %room, i64 0, i64 %n
      store volatile i64 %n, ptr %place, align 8
      %r = load volatile i64, ptr %room, align 8
      ret i64 %r
    }
    define hidden void @start(i64 %n) #0 {
      %place = getelementptr [2 x ptr], ptr @handlers, i64 0, i64 %n
      %handler = load ptr, ptr %place, align 8
      %r = call i64 %handler(i64 %n)
      store volatile i64 %r, ptr inttoptr (i64 4096 to ptr), align 8
      call void @second(i64 %r)
      ret void
    }
    define internal void @second(i64 %n) noinline #0 {
      %place = getelementptr [2 x ptr], ptr @others, i64 0, i64 %n
      %handler = load ptr, ptr %place, align 8
      %r = call i64 %handler(i64 %n)
      store volatile i64 %r, ptr inttoptr (i64 4096 to ptr), align 8
      ret void
    }"""


def test_function_tables_count_for_the_stack(tmp_path: Path) -> None:
    deep = build(tmp_path, TABLE).report
    assert [name for name, _ in deep.worst_stack] == ["_start", "enter", "start", "second", "large"]
    assert deep.worst_stack_bytes >= 1024
    shallow = build(tmp_path, TABLE.replace("@others, i64", "@handlers, i64")).report
    assert [name for name, _ in shallow.worst_stack] == ["_start", "enter", "start", "second", "medium"]


def test_calls_through_memory_may_reach_every_function_whose_address_is_taken(tmp_path: Path) -> None:
    body = TABLE.replace("%handler = load ptr, ptr %place", "%handler = load ptr, ptr inttoptr (i64 8192 to ptr)")
    body = body.replace("store volatile i64 %r, ptr inttoptr", "store volatile ptr @others, ptr inttoptr", 1)
    report = build(tmp_path, body).report
    assert [name for name, _ in report.worst_stack][-1] == "large"


def test_recursion_through_tables_is_refused(tmp_path: Path) -> None:
    body = TABLE.replace(
        "define internal i64 @large(i64 %n) #0 {",
        "define internal i64 @large(i64 %n) #0 {\n      call void @second(i64 %n)",
    )
    assert refused(tmp_path, body) == "recursion: second → large → second"


def test_too_deep_a_stack_is_refused(tmp_path: Path) -> None:
    message = refused(tmp_path, TABLE, stack_size=1024)
    assert re.fullmatch(
        r"the stack may need 1\d\d\d of 1024 bytes: _start 0 → enter 0 → start \d+ → second \d+ → large 1\d+",
        message,
    )
    assert "large" in refused(tmp_path, TABLE, own_stacks={"large": 512})


def test_relocations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link: Any = zig.link

    def emit(*arguments: Any) -> Any:
        *files, options = arguments
        return link(*files, [*options, "--emit-relocs"])

    monkeypatch.setattr(zig, "link", emit)
    assert "relocations are left in .rela.text" in refused(tmp_path, HELLO)


def test_unthought_of_sections_are_refused(tmp_path: Path) -> None:
    body = HELLO.replace("81985529216486895, align", '81985529216486895, section ".thread", align')
    assert refused(tmp_path, body) == "unexpected section .thread"


def test_a_missing_header_is_refused(tmp_path: Path) -> None:
    plain = Assembly(HEADER.text.replace('.ascii "ARM', '.ascii "ELF'), "boot.py", 1)
    with pytest.raises(elf.CheckError, match="does not begin with an arm64 Image header"):
        image.build(PRELUDE + HELLO + ATTRIBUTES, [plain], tmp_path)


def test_assembly_errors_name_the_python_line(tmp_path: Path) -> None:
    wrong = Assembly(HEADER.text + "    mvo x0, x1\n", "src/gz/core/vectors.py", 40)
    with pytest.raises(zig.ToolError, match=r"^src/gz/core/vectors.py:56:5: error: unrecognized instruction"):
        image.build(PRELUDE + HELLO + ATTRIBUTES, [wrong], tmp_path)


def test_modules_declare_assembly() -> None:
    assembly("nop")
    (piece,) = pieces(__name__)
    assert (piece.text, piece.file) == ("nop", __name__.replace(".", "/") + ".py")
    assert piece.line > 1
    assert pieces("gz.nowhere") == ()


def test_an_undefined_symbol_is_one_clear_error(tmp_path: Path) -> None:
    body = HELLO.replace("call void @put(i32 10)", "call void @nowhere()") + "declare hidden void @nowhere()\n"
    with pytest.raises(zig.ToolError, match="undefined hidden symbol: nowhere"):
        build(tmp_path, body)
