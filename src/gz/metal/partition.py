# SPDX-License-Identifier: Apache-2.0
"""A program's IR in several modules, to be compiled beside each other and kept as long as they do not change.

Nothing that would have been inlined is lost: a small function goes as `available_externally` to every module that
calls it (LLVM Language Reference, Linkage Types), one with a single caller stays with that caller. The modules number
their metadata themselves, so that a change elsewhere does not change them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

#: Characters of IR without what is for the debugger, some 20 instructions: larger functions are not inlined for their
#: size.
SMALL = 1200

#: Where the compiler's own functions are at home.
OWN = "gz"

_NAME = re.compile(r'@(?:"[^"]*"|[\w.$-]+)')
_NODE = re.compile(r"!\d+")
_NUMBERED = re.compile(r"(!\d+) = ")
_GLOBALS = re.compile(r"globals: (!\d+)")
_FOR_DEBUGGER = re.compile(r",? !dbg !\d+|\n  #dbg_[^\n]*")
_ATTACHED = re.compile(r", !dbg !\d+")


@dataclass
class Function:
    """A definition: its text, and the names it refers to."""

    name: str
    text: str
    uses: frozenset[str]
    callers: set[str] = field(default_factory=set[str])

    @cached_property
    def size(self) -> int:
        """Characters, the same whether debug information is wanted or not."""
        return len(_FOR_DEBUGGER.sub("", self.text))

    @property
    def copied(self) -> bool:
        """Does every module that calls it get a copy to inline?"""
        head = self.text.partition("\n")[0]
        return "alwaysinline" in head or (self.size <= SMALL and " noinline" not in head and " cold" not in head)

    @property
    def home(self) -> str:
        """The module of the source, which keeps its functions together; exported functions do not name theirs."""
        name = self.name.strip('@"')
        return name.rpartition(".")[0] or name


@dataclass
class Program:
    """The pieces of a module's text. Objects and functions by their name with @, nodes by their number with !."""

    head: list[str] = field(default_factory=list[str])
    objects: dict[str, str] = field(default_factory=dict[str, str])
    functions: dict[str, Function] = field(default_factory=dict[str, Function])
    declarations: dict[str, str] = field(default_factory=dict[str, str])
    named: list[str] = field(default_factory=list[str])
    nodes: dict[str, str] = field(default_factory=dict[str, str])
    #: The nodes that list the variables of the whole program.
    listed: set[str] = field(default_factory=set[str])


def parse(ir: str) -> Program:
    """Take apart what the emitter writes: one line for each thing but functions, which end at `}`."""
    program = Program()
    lines = iter(ir.split("\n"))
    for line in lines:
        if line.startswith("define "):
            _define(program, line, lines)
        elif line.startswith("declare "):
            program.declarations[_first_name(line)] = line
        elif line.startswith("@"):
            program.objects[_first_name(line)] = line
        elif numbered := _NUMBERED.match(line):
            program.nodes[numbered[1]] = text = line[numbered.end() :]
            if " globals: " in text and (match := _GLOBALS.search(text)):
                program.listed.add(match[1])
        elif line.startswith("!"):
            program.named.append(line)
        elif line:
            program.head.append(line)
    for function in program.functions.values():
        for name in function.uses & program.functions.keys():
            program.functions[name].callers.add(function.name)
    return program


def _define(program: Program, line: str, lines: Iterator[str]) -> None:
    body = [line]
    for inner in lines:
        body.append(inner)
        if inner == "}":
            break
    text, name = "\n".join(body), _first_name(line)
    program.functions[name] = Function(name, text, frozenset(_NAME.findall(text)) - {name})


def _first_name(line: str) -> str:
    found = _NAME.search(line)
    assert found is not None
    return found[0]


def split(ir: str, count: int) -> list[str]:
    """At most `count` modules that together are the program, and one for what the compiler adds."""
    program = parse(ir)
    # A table's functions belong to whoever uses the table.
    tables = {name: frozenset(_NAME.findall(text)) - {name} for name, text in program.objects.items()}
    for table, uses in tables.items():
        for name in uses & program.functions.keys():
            program.functions[name].callers |= {one.name for one in program.functions.values() if table in one.uses}
    groups = _groups(program.functions, count)
    contents = [_contents(program, tables, group) for group in groups]
    users: dict[str, int] = {}
    for content in contents:
        for name in content:
            users[name] = users.get(name, 0) + 1
    return [
        _module(program, group, content, users, first=number == 0)
        for number, (group, content) in enumerate(zip(groups, contents, strict=True))
    ]


def _groups(functions: Mapping[str, Function], count: int) -> list[dict[str, None]]:
    """Functions by module of the source, about evenly. Sizes are rounded: a small change moves nothing."""
    owners: dict[str, str] = {}

    def owner(name: str) -> str:
        callers = functions[name].callers
        if name not in owners:
            owners[name] = name  # closes circles
            owners[name] = owner(next(iter(callers))) if len(callers) == 1 else name
        return owners[name]

    homes: dict[str, list[str]] = {}
    for name in functions:
        homes.setdefault(functions[owner(name)].home, []).append(name)
    sizes = {home: 1 << sum(functions[name].size for name in names).bit_length() for home, names in homes.items()}
    # What the compiler adds changes with every line of any file, and is small.
    own = homes.pop(OWN, [])
    groups: list[dict[str, None]] = [{} for _ in range(min(count, len(homes)))]
    loads = [0] * len(groups)
    for home in sorted(homes, key=lambda home: (-sizes[home], home)):
        least = loads.index(min(loads))
        loads[least] += sizes[home]
        groups[least].update(dict.fromkeys(homes[home]))
    return [*groups, dict.fromkeys(own)] if own else groups


def _contents(program: Program, tables: Mapping[str, frozenset[str]], group: Mapping[str, None]) -> dict[str, None]:
    """The names a module mentions: its functions, what they use, and what the copies in it use."""
    found: dict[str, None] = {}
    waiting = list(group)
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found[name] = None
        function = program.functions.get(name)
        if function is not None and (name in group or function.copied):
            waiting += sorted(function.uses)
        waiting += sorted(tables.get(name, ()))
    return found


def _module(
    program: Program,
    group: Mapping[str, None],
    content: Mapping[str, None],
    users: Mapping[str, int],
    *,
    first: bool,
) -> str:
    """Its own definitions, copies of others' small ones, declarations of the rest. Storage that several modules use
    is in the first."""
    lines = list(program.head)
    storage: list[str] = []
    for name, text in program.objects.items():
        shared = " = internal global " in text and users.get(name, 0) != 1
        if not shared and name in content:
            lines.append(text)
        elif shared and first:
            lines.append(text.replace(" = internal global ", " = hidden global ", 1))
        elif shared and name in content:
            storage.append(_ATTACHED.sub("", text).replace(" = internal global ", " = external hidden global ", 1))
    lines += [text.replace(" zeroinitializer", "", 1) for text in storage]
    for name, function in program.functions.items():
        if name not in content:
            continue
        outside = "" if users[name] == 1 else "hidden "
        head, newline, body = function.text.partition("\n")
        if name in group:
            lines.append(head.replace("define internal ", f"define {outside or 'internal '}", 1) + newline + body)
        elif function.copied:
            lines.append(
                re.sub("^define (internal |hidden )", "define available_externally hidden ", head) + newline + body
            )
        else:
            lines.append(_declaration(head))
    lines += [text for name, text in program.declarations.items() if name in content]
    return "\n".join([*_numbered(program, lines), ""])


def _declaration(head: str) -> str:
    """From the head of a definition."""
    head = re.sub("^define (internal |hidden )", "declare hidden ", head)
    head = re.sub(r" !dbg !\d+ \{$", "", head).removesuffix(" {")
    return re.sub(r" %p\d+", "", head)


def _numbered(program: Program, lines: list[str]) -> Iterable[str]:
    """The lines with the nodes they need, numbered in the order of their use."""
    numbers: dict[str, str] = {}
    waiting: list[str] = []
    globals = {name for line in lines if line.startswith("@") for name in _NODE.findall(line)}
    nodes = program.nodes

    def number(match: re.Match[str]) -> str:
        name = match[0]
        if name not in numbers:
            numbers[name] = f"!{len(numbers)}"
            waiting.append(name)
        return numbers[name]

    def own(name: str) -> str:
        if name not in program.listed:
            return nodes[name]
        return "!{" + ", ".join(one for one in _NODE.findall(nodes[name]) if one in globals) + "}"

    renamed = [_NODE.sub(number, line) for line in [*lines, *program.named]]
    found: list[str] = []
    position = 0
    while position < len(waiting):
        name = waiting[position]
        found.append(f"{numbers[name]} = {_NODE.sub(number, own(name))}")
        position += 1
    return [*renamed, *found]
