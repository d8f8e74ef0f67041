# SPDX-License-Identifier: Apache-2.0
"""Failed checks, panics and logs: small at the place of the check, texts in tables without addresses."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gz.metal import tree
from gz.metal.emit.text import byte_string, value_type
from gz.metal.errors import CompileError

if TYPE_CHECKING:
    from gz.metal.emit.module import Module

_FILE = struct.Struct("<II")  # text, its first site
_SITE = struct.Struct("<II")  # line, text
_TEXT = struct.Struct("<II")  # offset, length


class Failures:
    """The table of places that can fail, and the functions they call.

    A site's number has its file in the low bits and counts within the file above: a change of another file does not
    change it, and nearly all are one instruction."""

    def __init__(self, module: Module, files: Sequence[str]) -> None:
        self.module = module
        self.bits = max(8, (len(files) - 1).bit_length())
        self.files = {file: number for number, file in enumerate(files)}
        self.sites: dict[str, dict[tuple[int, str], int]] = {file: {} for file in files}
        self.texts: dict[str, int] = {}

    def site(self, text: str, file: str, line: int) -> int:
        """The number of a place: what went wrong, file and line."""
        sites = self.sites[file]
        return sites.setdefault((line, text), len(sites)) << self.bits | self.files[file]

    def need_text(self, signature: tree.Signature, at: tree.Position) -> None:
        """Refuse a log that has nowhere to go."""
        if signature.symbol in self.module.within_sinks:
            hint = f"{signature.function.__qualname__} is used by the hooks that write texts"
            raise CompileError([signature.source.at(at, "log() inside of what log() uses", hint)])
        if not self.module.target.fake and "text" not in self.module.hooks:
            hint = 'the program needs a function @hook("text")'
            raise CompileError([signature.source.at(at, "log() has nowhere to write to", hint)])

    def _text(self, text: str) -> int:
        return self.texts.setdefault(text, len(self.texts))

    def emit(self) -> list[str]:
        """All definitions that the functions' texts refer to."""
        found = [PLACES.format(bits=self.bits, mask=(1 << self.bits) - 1)]
        found.append(FAKE_SINKS if self.module.target.fake else self._sinks())
        files = records = texts = places = b""
        for file, sites in self.sites.items():
            files += _FILE.pack(self._text(file), len(records) // _SITE.size)
            records += b"".join(_SITE.pack(line, self._text(text)) for line, text in sites)
        for text in self.texts:
            content = text.encode()
            places += _TEXT.pack(len(texts), len(content))
            texts += content
        tables = (("files", files, 4), ("sites", records, 4), ("text_places", places, 4), ("texts", texts, 1))
        for name, content, align in tables:
            found.append(f"@gz.{name} = internal constant [{len(content)} x i8] {byte_string(content)}, align {align}")
        return found

    def _sinks(self) -> str:
        hooks = self.module.hooks
        text = number = ""
        if "text" in hooks:
            text = "%address = ptrtoint ptr %text to i64\n  " + self._hook("text", "i64 %address, i64 %length")
        if "number" in hooks:
            number = self._hook("number", "i64 %value, i32 %base, i1 %signed")
        panic = self._hook("panic", "") if "panic" in hooks else "call void @llvm.trap()"
        self.module.declare("declare void @llvm.trap()")
        return SINKS.format(text=text, number=number, panic=panic)

    def _hook(self, name: str, arguments: str) -> str:
        signature = self.module.hooks[name]
        return f"call {value_type(signature.result)} {self.module.name(signature)}({arguments})"


PLACES = """\
define internal {{i32, ptr}} @gz.place(i32 %site) cold #0 {{
  %file = and i32 %site, {mask}
  %index = lshr i32 %site, {bits}
  %wide = zext i32 %file to i64
  %row = getelementptr [8 x i8], ptr @gz.files, i64 %wide
  %name = load i32, ptr %row, align 4
  %second = getelementptr i8, ptr %row, i64 4
  %first = load i32, ptr %second, align 4
  %number = add i32 %first, %index
  %far = zext i32 %number to i64
  %record = getelementptr [8 x i8], ptr @gz.sites, i64 %far
  %half = insertvalue {{i32, ptr}} poison, i32 %name, 0
  %place = insertvalue {{i32, ptr}} %half, ptr %record, 1
  ret {{i32, ptr}} %place
}}

define internal i32 @gz.reason(i32 %site) cold #0 {{
  %place = call {{i32, ptr}} @gz.place(i32 %site)
  %record = extractvalue {{i32, ptr}} %place, 1
  %second = getelementptr i8, ptr %record, i64 4
  %text = load i32, ptr %second, align 4
  ret i32 %text
}}
"""

SINKS = """\
define internal void @gz.write_text(ptr %text, i64 %length) noinline cold #0 {{
  {text}
  ret void
}}

define internal void @gz.write_number(i64 %value, i32 %base, i1 %signed) noinline cold #0 {{
  {number}
  ret void
}}

define internal void @gz.write_table(i32 %index) noinline cold #0 {{
  %wide = zext i32 %index to i64
  %place = getelementptr [8 x i8], ptr @gz.text_places, i64 %wide
  %offset = load i32, ptr %place, align 4
  %second = getelementptr i8, ptr %place, i64 4
  %length = load i32, ptr %second, align 4
  %far = zext i32 %offset to i64
  %long = zext i32 %length to i64
  %text = getelementptr i8, ptr @gz.texts, i64 %far
  call void @gz.write_text(ptr %text, i64 %long)
  ret void
}}

@gz.colon = internal constant [1 x i8] c":", align 1
@gz.space = internal constant [2 x i8] c": ", align 1
@gz.newline = internal constant [1 x i8] c"\\0A", align 1

define internal void @gz.begin_panic(i32 %site) noinline cold #0 {{
  %place = call {{i32, ptr}} @gz.place(i32 %site)
  %index = extractvalue {{i32, ptr}} %place, 0
  %record = extractvalue {{i32, ptr}} %place, 1
  %line = load i32, ptr %record, align 4
  call void @gz.write_table(i32 %index)
  call void @gz.write_text(ptr @gz.colon, i64 1)
  %number = zext i32 %line to i64
  call void @gz.write_number(i64 %number, i32 10, i1 false)
  call void @gz.write_text(ptr @gz.space, i64 2)
  ret void
}}

define internal void @gz.end_panic() noinline cold noreturn #0 {{
  call void @gz.write_text(ptr @gz.newline, i64 1)
  {panic}
  unreachable
}}

define internal void @gz.check_failed(i32 %site) noinline cold noreturn #0 {{
  call void @gz.begin_panic(i32 %site)
  %index = call i32 @gz.reason(i32 %site)
  call void @gz.write_table(i32 %index)
  call void @gz.end_panic()
  unreachable
}}
"""

FAKE_SINKS = """\
@gz_jit_on_text = global ptr null, align 8
@gz_jit_on_number = global ptr null, align 8
@gz_jit_on_panic_begin = global ptr null, align 8
@gz_jit_on_panic = global ptr null, align 8

define internal void @gz.write_text(ptr %text, i64 %length) noinline cold #0 {
  %function = load ptr, ptr @gz_jit_on_text, align 8
  %none = icmp eq ptr %function, null
  br i1 %none, label %done, label %some
some:
  call void %function(ptr %text, i64 %length)
  br label %done
done:
  ret void
}

define internal void @gz.write_number(i64 %value, i32 %base, i1 %signed) noinline cold #0 {
  %function = load ptr, ptr @gz_jit_on_number, align 8
  %none = icmp eq ptr %function, null
  br i1 %none, label %done, label %some
some:
  %flag = zext i1 %signed to i32
  call void %function(i64 %value, i32 %base, i32 %flag)
  br label %done
done:
  ret void
}

define internal {ptr, i64} @gz.table_text(i32 %index) noinline cold #0 {
  %wide = zext i32 %index to i64
  %place = getelementptr [8 x i8], ptr @gz.text_places, i64 %wide
  %offset = load i32, ptr %place, align 4
  %second = getelementptr i8, ptr %place, i64 4
  %length = load i32, ptr %second, align 4
  %far = zext i32 %offset to i64
  %long = zext i32 %length to i64
  %text = getelementptr i8, ptr @gz.texts, i64 %far
  %half = insertvalue {ptr, i64} poison, ptr %text, 0
  %whole = insertvalue {ptr, i64} %half, i64 %long, 1
  ret {ptr, i64} %whole
}

define internal void @gz.begin_panic(i32 %site) noinline cold #0 {
  %place = call {i32, ptr} @gz.place(i32 %site)
  %index = extractvalue {i32, ptr} %place, 0
  %record = extractvalue {i32, ptr} %place, 1
  %line = load i32, ptr %record, align 4
  %whole = call {ptr, i64} @gz.table_text(i32 %index)
  %text = extractvalue {ptr, i64} %whole, 0
  %length = extractvalue {ptr, i64} %whole, 1
  %function = load ptr, ptr @gz_jit_on_panic_begin, align 8
  %none = icmp eq ptr %function, null
  br i1 %none, label %done, label %some
some:
  call void %function(ptr %text, i64 %length, i32 %line)
  br label %done
done:
  ret void
}

define internal void @gz.end_panic() noinline cold noreturn #0 {
  %function = load ptr, ptr @gz_jit_on_panic, align 8
  call void %function()
  unreachable
}

define internal void @gz.check_failed(i32 %site) noinline cold noreturn #0 {
  call void @gz.begin_panic(i32 %site)
  %index = call i32 @gz.reason(i32 %site)
  %whole = call {ptr, i64} @gz.table_text(i32 %index)
  %text = extractvalue {ptr, i64} %whole, 0
  %length = extractvalue {ptr, i64} %whole, 1
  call void @gz.write_text(ptr %text, i64 %length)
  call void @gz.end_panic()
  unreachable
}
"""
