# SPDX-License-Identifier: Apache-2.0
"""The text of one function as it grows: instructions, blocks, the place in the source they belong to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gz.metal.emit.text import alignment, memory_type
from gz.metal.tree import Position, Variable

if TYPE_CHECKING:
    from gz.metal.emit.module import Module
    from gz.metal.tree import Signature


class Body:
    """`terminated`: the current block has ended, what follows needs a new one."""

    def __init__(self, module: Module, signature: Signature) -> None:
        self.module, self.signature = module, signature
        self.lines: list[str] = []
        self.entry: list[str] = []
        self.block = "entry"
        self.terminated = False
        self.slots: dict[Variable, str] = {}
        self.breaks: list[str] = []
        self.continues: list[str] = []
        self.location = ""
        self.position: Position = (0, 0)
        self._count = 0
        self.scope = ""

    def at(self, position: Position) -> None:
        """Instructions from here on belong to this place."""
        if position != self.position:
            self.position = position
            if self.scope:
                self.location = ", !dbg " + self.module.debug.location(position, self.scope)

    def let(self, text: str) -> str:
        """An instruction with a result."""
        self._count += 1
        name = f"%v{self._count}"
        self.lines.append(f"  {name} = {text}{self.location}")
        return name

    def do(self, text: str) -> None:
        """An instruction without a result."""
        self.lines.append(f"  {text}{self.location}")

    def label(self, hint: str) -> str:
        """A new name for a block."""
        self._count += 1
        return f"{hint}{self._count}"

    def start(self, label: str) -> None:
        """Begin a block; control that reaches the end of the one before runs into it."""
        if not self.terminated:
            self.jump(label)
        self.lines.append(f"{label}:")
        self.block, self.terminated = label, False

    def jump(self, label: str) -> None:
        """End the block by a jump, unless it has ended."""
        if not self.terminated:
            self.end(f"br label %{label}")

    def branch(self, condition: str, yes: str, no: str, weights: str = "") -> None:
        """End the block by a conditional jump."""
        self.end(f"br i1 {condition}, label %{yes}, label %{no}{weights}")

    def end(self, text: str) -> None:
        """End the block by this instruction."""
        self.do(text)
        self.terminated = True

    def require(self, condition: str, text: str) -> None:
        """Go on only if the condition holds; the other way is a failed check."""
        go, fail = self.label("ok"), self.label("fail")
        self.branch(condition, go, fail, self.module.unlikely)
        self.start(fail)
        self.fail(text)
        self.start(go)

    def fail(self, text: str) -> None:
        """Give up with a constant text and this place; what writes such texts can only stop."""
        if self.signature.symbol in self.module.within_hooks:
            self.module.declare("declare void @llvm.trap()")
            self.do("call void @llvm.trap()")
            self.end("unreachable")
            return
        site = self.module.failures.site(text, self.signature.source.path, self.position[0])
        self.do(f"call void @gz.check_failed(i32 {site})")
        self.end("unreachable")

    def scratch(self, type: str) -> str:
        """Memory of the function's own."""
        self._count += 1
        self.entry.append(f"  %s{self._count} = alloca {type}, align 8")
        return f"%s{self._count}"

    def slot(self, variable: Variable) -> str:
        """Where a variable lives; LLVM takes it into registers."""
        if variable not in self.slots:
            name = (
                f"%{variable.name or 'hidden'}.{len(self.slots)}"
                if variable.name.isascii()
                else f"%l.{len(self.slots)}"
            )
            self.entry.append(f"  {name} = alloca {memory_type(variable.type)}, align {alignment(variable.type)}")
            self.slots[variable] = name
        return self.slots[variable]
