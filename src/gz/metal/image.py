# SPDX-License-Identifier: Apache-2.0
"""Linking the program at its fixed virtual address: an ELF for the debugger and the flat arm64 Image."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from gz.metal import elf, names, zig
from gz.metal.assembly import Assembly
from gz.metal.layout import LINK_ADDRESS, PAGE, STACK_COUNT, STACK_SIZE, STACK_STRIDE
from gz.metal.objects import compile_parts
from gz.metal.report import Image, Report
from gz.metal.symbols import Symbols

TARGET = "aarch64-none-elf"

#: Linux Documentation/arch/arm64/booting.rst, "Call the kernel image".
HEADER = struct.Struct("<II QQQ QQQ 4sI")
HEADER_MAGIC = b"ARM\x64"

# The code at the image's start runs where it was loaded, before the MMU is on; all else at the addresses
# given here. A flat image keeps the distances, so PC-relative addresses are right in both worlds.
LINKER_SCRIPT = """\
ENTRY(_start)
PHDRS {{
  text PT_LOAD FLAGS(5);
  rodata PT_LOAD FLAGS(4);
  data PT_LOAD FLAGS(6);
  stacks PT_LOAD FLAGS(6);
}}
SECTIONS {{
  . = {address:#x};
  __image_start = .;
  __text_start = .;
  .text : {{ KEEP(*(.head.text)) *(.text .text.*) }} :text
  . = ALIGN({page});
  __text_end = .;
  __rodata_start = .;
  .rodata : {{ *(.rodata .rodata.*) }} :rodata
  . = ALIGN({page});
  __rodata_end = .;
  __data_start = .;
  .data : {{ *(.data .data.*) }} :data
  . = ALIGN(16);
  __bss_start = .;
  .bss (NOLOAD) : {{ *(.bss .bss.* COMMON) }} :data
  . = ALIGN({page});
  __bss_end = .;
  __data_end = .;
  __stacks_start = .;
  .stacks (NOLOAD) : {{ . += {stacks:#x}; }} :stacks
  __stacks_end = .;
  __image_end = .;
  __image_size = ABSOLUTE(__image_end - __image_start);
  /DISCARD/ : {{ *(.note .note.* .comment .llvm_addrsig) }}
}}
"""


def build(
    ir: str,
    assembly: Sequence[Assembly],
    directory: Path,
    *,
    name: str = "core",
    link_address: int = LINK_ADDRESS,
    stack_count: int = STACK_COUNT,
    stack_size: int = STACK_SIZE,
    own_stacks: Mapping[str, int] | None = None,
    kept: Path | None = None,
) -> Image:
    """Compile, link and check. `own_stacks`: the size of the stack that assembly sets up for a function it
    calls there. `kept`: compile in parts and hold their objects there. zig.ToolError or elf.CheckError; then no
    finished output is left."""
    began = time.perf_counter()
    directory.mkdir(parents=True, exist_ok=True)
    linked, flat = directory / f"{name}.elf", directory / f"{name}.img"
    linked.unlink(missing_ok=True)
    flat.unlink(missing_ok=True)

    # Frame tables weigh on where instructions go: with them always, debug information changes no code.
    options = ["-fno-pic", "-mcmodel=small", "-fforce-dwarf-frame"]
    if kept is None:
        objects = [f"{name}.o"]
        (directory / f"{name}.ll").write_text(ir)
        zig.compile_ir(f"{name}.ll", TARGET, objects[0], directory, options)
    else:
        objects = compile_parts(ir, TARGET, name, directory, options, kept)
    if assembly:
        pieces = [f'# {piece.line} "{piece.file}"\n.text\n{piece.text}\n' for piece in assembly]
        (directory / f"{name}-vectors.s").write_text("".join(pieces))
        zig.assemble(f"{name}-vectors.s", TARGET, f"{name}-vectors.o", directory)
        objects.append(f"{name}-vectors.o")
    stride = stack_size + STACK_STRIDE - STACK_SIZE
    script = LINKER_SCRIPT.format(address=link_address, page=PAGE, stacks=stack_count * stride)
    (directory / f"{name}.ld").write_text(script)
    options = ["-static", "--gc-sections", "-z", f"max-page-size={PAGE}", "-T", f"{name}.ld"]
    unchecked = directory / f"{name}.unchecked"
    if any(names.SYMBOL in piece.text for piece in assembly):
        # The code lies before all data, so what the table holds does not move it.
        objects.append(_names([], name, directory))
        zig.link(objects, unchecked.name, directory, options)
        found = [(address - link_address, symbol) for address, symbol in Symbols(unchecked).functions]
        _names(found, name, directory)
    zig.link(objects, unchecked.name, directory, options)

    measured = elf.check(
        unchecked,
        [directory / piece for piece in objects],
        stack_size=stack_size,
        own_stacks=own_stacks,
    )
    contents = elf.flatten(unchecked)
    check_header(contents)
    flat.write_bytes(contents)
    unchecked.replace(linked)
    seconds = round(time.perf_counter() - began, 3)
    measures = measured.text_bytes, len(contents), measured.worst_stack_bytes
    return Image(linked, flat, Report(*measures, seconds, measured.worst_stack))


def _names(functions: Sequence[tuple[int, str]], name: str, directory: Path) -> str:
    """The object with the functions' names."""
    (directory / f"{name}-names.s").write_text(names.assembly(functions))
    zig.assemble(f"{name}-names.s", TARGET, f"{name}-names.o", directory)
    return f"{name}-names.o"


def check_header(flat: bytes) -> None:
    """The arm64 header is the modules' own assembly: see that a boot loader will take it."""
    if len(flat) < HEADER.size or flat[56:60] != HEADER_MAGIC:
        raise elf.CheckError(["the image does not begin with an arm64 Image header in .head.text"])
    _, _, _, image_size, flags, *_ = HEADER.unpack_from(flat)
    if image_size < len(flat):
        raise elf.CheckError([f"the header's image_size {image_size:#x} is less than the file's {len(flat):#x}"])
    if flags & 1:
        raise elf.CheckError(["the header's flags say big-endian"])
