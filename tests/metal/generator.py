# SPDX-License-Identifier: Apache-2.0
"""Random functions, each twice: in metal, and in Python that says what metal's rules make of it.

The model is written from docs/language.md and knows nothing of the compiler: exact integers, cut to a type's range
by `cut` after each operation.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from gz.bits import i8, i16, i32, i64, u8, u16, u32, u64

TYPES = {
    "u8": (8, False),
    "u16": (16, False),
    "u32": (32, False),
    "u64": (64, False),
    "i8": (8, True),
    "i16": (16, True),
    "i32": (32, True),
    "i64": (64, True),
}
ARRAYS = {"a8": ("u8", 5), "a16": ("i16", 3), "a32": ("u32", 4), "a64": ("u64", 7)}
TABLE = (3, 0xFFFF_FFFF, 7, 0x8000_0000, 1)
DEPTH_MAX = 3
COLOURS = {"RED": 0, "GREEN": 1, "BLUE": 5}

HEAD = """\
from __future__ import annotations

from enum import IntEnum

from gz.bits import Array, Ptr, Register, Struct, array, enumeration, field, i8, i16, i32, i64, table, u8, u16, u32, u64
from gz.metal import byte_swap, copy, count_leading_zeros, count_trailing_zeros, popcount, unroll

TABLE = table(u32, [3, 0xFFFF_FFFF, 7, 0x8000_0000, 1])


@enumeration(u8)
class Colour{n}(IntEnum):
    RED = 0
    GREEN = 1
    BLUE = 5


class Flags{n}(Register, width=32):
    TOP = field(31)
    HIGH = field(30, 24)
    MID = field(20, 5)
    LOW = field(0)


class State{n}(Struct):
    a8: Array[u8] = array(5)
    flag: bool
    s_u8: u8
    s_u16: u16
    s_u32: u32
    s_u64: u64
    s_i8: i8
    a16: Array[i16] = array(3)
    s_i16: i16
    s_i32: i32
    s_i64: i64
    a32: Array[u32] = array(4)
    flags: Flags{n}
    colour: Colour{n}
    a64: Array[u64] = array(7)
    other: Ptr[State{n}] | None
"""


def least(kind: str) -> int:
    bits, signed = TYPES[kind]
    return -(1 << bits - 1) if signed else 0


def most(kind: str) -> int:
    bits, signed = TYPES[kind]
    return (1 << bits - signed) - 1


_CONVERSIONS = {
    "u8": u8, "u16": u16, "u32": u32, "u64": u64, "i8": i8, "i16": i16, "i32": i32, "i64": i64,
    "byte_swap": int,
}  # fmt: skip


@dataclass
class Text:
    """The same in metal and in the model."""

    metal: str
    model: str


@dataclass
class Function:
    name: str
    parameters: list[str]
    result: str
    pair: bool


@dataclass
class Generator:
    """`number` distinguishes the names of structs; all choices come from `rng`."""

    rng: random.Random
    number: int
    functions: list[Function] = field(default_factory=list[Function])
    metal: list[str] = field(default_factory=list[str])
    model: list[str] = field(default_factory=list[str])
    variables: dict[str, str] = field(default_factory=dict[str, str])
    frozen: set[str] = field(default_factory=set[str])
    fresh: int = 0
    loops: int = 0
    #: Locals that refer to a State here.
    pointers: list[str] = field(default_factory=list[str])

    # --- expressions

    def state(self) -> str:
        return self.rng.choice(["s", "s", *self.pointers])

    def literal(self, kind: str) -> int:
        bits, _ = TYPES[kind]
        choice = self.rng.random()
        if choice < 0.5:
            number = self.rng.randrange(10)
        elif choice < 0.8:
            number = (1 << self.rng.randrange(bits)) + self.rng.randrange(-1, 2)
        else:
            number = self.rng.randrange(least(kind), most(kind) + 1)
        return max(least(kind), min(most(kind), number))

    def leaf(self, kind: str) -> Text:
        names = [name for name, type in self.variables.items() if type == kind]
        choice = self.rng.random()
        if names and choice < 0.45:
            name = self.rng.choice(names)
            return Text(name, name)
        if choice < 0.6:
            place = f"{self.state()}.s_{kind}"
            return Text(place, place)
        arrays = [name for name, (element, _) in ARRAYS.items() if element == kind]
        if arrays and choice < 0.75:
            name = self.rng.choice(arrays)
            index = self.index(ARRAYS[name][1])
            owner = self.state()
            return Text(f"{owner}.{name}[{index.metal}]", f"at({owner}.{name}, {index.model})")
        if kind == "u32" and choice < 0.85:
            index = self.index(len(TABLE))
            part = self.rng.choice(("TOP", "HIGH", "MID", "LOW"))
            if self.rng.random() < 0.5:
                return Text(f"TABLE[{index.metal}]", f"at(TABLE, {index.model})")
            return Text(f"s.flags.{part}", f"bits(s.flags, '{part}')")
        number = self.literal(kind)
        return Text(f"{kind}({number})", str(number))

    def index(self, count: int) -> Text:
        """Mostly inside."""
        if self.rng.random() < 0.5:
            number = self.rng.randrange(count)
            return Text(str(number), str(number))
        inner = self.expression(self.rng.choice(("u8", "u32", "u64")), 1)
        if self.rng.random() < 0.95:
            return Text(f"({inner.metal}) % {count}", f"({inner.model}) % {count}")
        return Text(f"({inner.metal}) % {count + 1}", f"({inner.model}) % {count + 1}")

    def narrower(self, kind: str) -> str:
        bits, signed = TYPES[kind]
        return self.rng.choice([name for name, (b, s) in TYPES.items() if s == signed and b <= bits])

    def expression(self, kind: str, depth: int) -> Text:
        if depth <= 0:
            return self.leaf(kind)
        rules = [
            self.arithmetic, self.arithmetic, self.arithmetic, self.shift, self.division, self.unary,
            self.extreme, self.choice, self.conversion, self.count, self.call, self.leaf_of,
        ]  # fmt: skip
        return self.rng.choice(rules)(kind, depth)

    def leaf_of(self, kind: str, depth: int) -> Text:
        return self.leaf(kind)

    def operands(self, kind: str, depth: int) -> tuple[Text, Text]:
        """One operand has the type itself, the other may be narrower or a bare number."""
        first = self.expression(kind, depth - 1)
        choice = self.rng.random()
        if choice < 0.25:
            number = self.literal(kind)
            second = Text(str(number), str(number))
        elif choice < 0.4:
            other = self.leaf(self.narrower(kind))
            second = other
        else:
            second = self.expression(kind, depth - 1)
        first, second = (Text(f"({t.metal})", f"({t.model})") for t in (first, second))
        return (first, second) if self.rng.random() < 0.7 else (second, first)

    def arithmetic(self, kind: str, depth: int) -> Text:
        operator = self.rng.choice(("+", "-", "*", "&", "|", "^"))
        a, b = self.operands(kind, depth)
        return Text(f"{a.metal} {operator} {b.metal}", f"cut('{kind}', {a.model} {operator} {b.model})")

    def shift(self, kind: str, depth: int) -> Text:
        operator = self.rng.choice(("<<", ">>"))
        a = self.expression(kind, depth - 1)
        bits, _ = TYPES[kind]
        if self.rng.random() < 0.5:
            amount = str(self.rng.randrange(bits))
            b = Text(amount, amount)
        else:
            b = self.expression(self.rng.choice(("u8", "u16", "u32", "u64")), depth - 1)
            if self.rng.random() < 0.7:
                b = Text(f"({b.metal}) % {bits + 3}", f"({b.model}) % {bits + 3}")
        name = "left" if operator == "<<" else "right"
        return Text(f"({a.metal}) {operator} ({b.metal})", f"{name}('{kind}', {a.model}, {b.model})")

    def division(self, kind: str, depth: int) -> Text:
        operator = self.rng.choice(("//", "%"))
        a, b = self.operands(kind, depth)
        try:
            zero = eval(b.metal, dict(_CONVERSIONS)) == 0
        except (ArithmeticError, MemoryError, NameError, ValueError):
            zero = False
        if zero:  # the compiler refuses it
            return self.leaf(kind)
        if self.rng.random() < 0.8:
            b = Text(f"({b.metal} | 1)", f"({b.model} | 1)")
        name = "quotient" if operator == "//" else "remainder"
        return Text(f"{a.metal} {operator} {b.metal}", f"{name}('{kind}', {a.model}, {b.model})")

    def unary(self, kind: str, depth: int) -> Text:
        a = self.expression(kind, depth - 1)
        operator = self.rng.choice(("-", "~", "abs"))
        return Text(f"{operator}({a.metal})", f"cut('{kind}', {operator}({a.model}))")

    def extreme(self, kind: str, depth: int) -> Text:
        a, b = self.operands(kind, depth)
        name = self.rng.choice(("min", "max"))
        return Text(f"{name}({a.metal}, {b.metal})", f"{name}({a.model}, {b.model})")

    def choice(self, kind: str, depth: int) -> Text:
        a, b = self.expression(kind, depth - 1), self.expression(kind, depth - 1)
        c = self.condition(depth - 1)
        return Text(f"(({a.metal}) if {c.metal} else ({b.metal}))", f"(({a.model}) if {c.model} else ({b.model}))")

    def conversion(self, kind: str, depth: int) -> Text:
        a = self.expression(self.rng.choice(list(TYPES)), depth - 1)
        return Text(f"{kind}({a.metal})", f"cut('{kind}', {a.model})")

    def count(self, kind: str, depth: int) -> Text:
        a = self.expression(kind, depth - 1)
        name = self.rng.choice(("popcount", "count_leading_zeros", "count_trailing_zeros", "byte_swap"))
        return Text(f"{name}({a.metal})", f"{name}('{kind}', {a.model})")

    def call(self, kind: str, depth: int) -> Text:
        known = [f for f in self.functions if f.result == kind and not f.pair]
        if not known or self.loops:
            return self.arithmetic(kind, depth)
        function = self.rng.choice(known)
        arguments = [self.expression(type, 0) for type in function.parameters]
        owner = self.state()
        metal = ", ".join([owner, *(a.metal for a in arguments)])
        model = ", ".join([owner, *(a.model for a in arguments)])
        return Text(f"{function.name}({metal})", f"{function.name}({model})")

    def condition(self, depth: int) -> Text:
        choice = self.rng.random()
        if choice < 0.1:
            return Text("s.flag", "s.flag")
        if depth > 0 and choice < 0.35:
            a, b = self.condition(depth - 1), self.condition(depth - 1)
            word = self.rng.choice(("and", "or"))
            return Text(f"({a.metal} {word} {b.metal})", f"({a.model} {word} {b.model})")
        if depth > 0 and choice < 0.4:
            a = self.condition(depth - 1)
            return Text(f"(not {a.metal})", f"(not {a.model})")
        kind = self.rng.choice(list(TYPES))
        a, b = self.operands(kind, max(depth, 1))
        operator = self.rng.choice(("==", "!=", "<", "<=", ">", ">="))
        if self.at_an_end(kind, a) or self.at_an_end(kind, b):
            operator = "=="
        if choice < 0.5:
            c = self.leaf(kind)
            second = self.rng.choice(("<", "<=", "=="))
            if self.at_an_end(kind, b) or self.at_an_end(kind, c):
                second = "=="
            return Text(
                f"({a.metal} {operator} {b.metal} {second} {c.metal})",
                f"({a.model} {operator} {b.model} {second} {c.model})",
            )
        return Text(f"({a.metal} {operator} {b.metal})", f"({a.model} {operator} {b.model})")

    def at_an_end(self, kind: str, operand: Text) -> bool:
        """Is it a number beyond which its type has none? Which way that compares is refused if it is always so."""
        number = re.fullmatch(r"\(*(-?\d+)\)*", operand.metal)
        return number is not None and int(number[1]) in (least(kind), most(kind))

    # --- statements

    def emit(self, indent: int, metal: str, model: str | None = None) -> None:
        self.metal.append("    " * indent + metal)
        self.model.append("    " * indent + (metal if model is None else model))

    def name(self) -> str:
        self.fresh += 1
        return f"v{self.fresh}"

    def statements(self, indent: int, count: int) -> None:
        if indent > DEPTH_MAX:
            return self.declare(indent)
        for _ in range(count):
            rules = [
                self.assign, self.assign, self.declare, self.declare, self.store, self.store, self.update, self.branch,
                self.loop, self.iterate, self.matching, self.unrolled, self.place_update, self.field, self.unpack,
                self.pointer, self.pointer,
            ]  # fmt: skip
            self.rng.choice(rules)(indent)

    def block(self, indent: int) -> None:
        """Statements whose new variables are gone behind them."""
        known = dict(self.variables)
        self.statements(indent, self.rng.randrange(1, 4))
        self.variables = known

    def declare(self, indent: int) -> None:
        kind = self.rng.choice(list(TYPES))
        value = self.expression(kind, 2)
        name = self.name()
        self.emit(indent, f"{name}: {kind} = {value.metal}", f"{name} = {value.model}")
        self.variables[name] = kind

    def assignable(self) -> list[str]:
        return [name for name in self.variables if name not in self.frozen]

    def assign(self, indent: int) -> None:
        if not self.assignable():
            return self.declare(indent)
        name = self.rng.choice(self.assignable())
        value = self.expression(self.variables[name], 3)
        self.emit(indent, f"{name} = {value.metal}", f"{name} = {value.model}")

    def update(self, indent: int) -> None:
        if not self.assignable():
            return self.declare(indent)
        name = self.rng.choice(self.assignable())
        kind = self.variables[name]
        operator = self.rng.choice(("+", "-", "*", "&", "|", "^"))
        value = self.leaf(self.narrower(kind)) if self.rng.random() < 0.5 else self.expression(kind, 1)
        self.emit(
            indent,
            f"{name} {operator}= {value.metal}",
            f"{name} = cut('{kind}', {name} {operator} ({value.model}))",
        )

    def store(self, indent: int) -> None:
        if self.rng.random() < 0.1:
            value = self.condition(2)
            self.emit(indent, f"s.flag = {value.metal}", f"s.flag = {value.model}")
            return
        if self.rng.random() < 0.5:
            kind = self.rng.choice(list(TYPES))
            value = self.expression(kind, 3)
            owner = self.state()
            self.emit(indent, f"{owner}.s_{kind} = {value.metal}", f"{owner}.s_{kind} = {value.model}")
            return
        name = self.rng.choice(list(ARRAYS))
        kind, count = ARRAYS[name]
        value, index, owner = self.expression(kind, 2), self.index(count), self.state()
        self.emit(
            indent,
            f"{owner}.{name}[{index.metal}] = {value.metal}",
            f"put({owner}.{name}, lambda: {index.model}, {value.model})",
        )

    def place_update(self, indent: int) -> None:
        name = self.rng.choice(list(ARRAYS))
        kind, count = ARRAYS[name]
        operator = self.rng.choice(("+", "-", "|", "^"))
        index, value = self.index(count), self.expression(kind, 1)
        self.emit(
            indent,
            f"s.{name}[{index.metal}] {operator}= {value.metal}",
            f"change('{kind}', s.{name}, {index.model}, lambda old: old {operator} ({value.model}))",
        )

    def field(self, indent: int) -> None:
        part = self.rng.choice(("TOP", "HIGH", "MID", "LOW"))
        value = self.expression("u32", 2)
        self.emit(
            indent,
            f"s.flags = s.flags.replace({part}=s.s_u32 ^ ({value.metal}))",
            f"s.flags = insert(s.flags, '{part}', s.s_u32 ^ ({value.model}))",
        )

    def pointer(self, indent: int) -> None:
        """Follow `other`, which may be None or lead back; turn it elsewhere."""
        if self.rng.random() < 0.4:
            owner, target = self.state(), self.rng.choice(["None", "s", *self.pointers])
            self.emit(indent, f"{owner}.other = {target}")
            return
        name = self.name()
        self.emit(indent, f"{name} = {self.state()}.other")
        if self.rng.random() < 0.3:
            test = self.condition(1)
            start = f"if {name} is not None and"
            self.emit(indent, f"{start} {test.metal}:", f"{start} {test.model}:")
        else:
            self.emit(indent, f"if {name} is not None:")
        if self.rng.random() < 0.3:
            source = self.state()
            self.emit(indent + 1, f"if {name} is not {source}:")
            self.emit(indent + 2, f"copy({name}, {source})", f"duplicate({name}, {source})")
        self.pointers.append(name)
        self.block(indent + 1)
        self.pointers.pop()

    def branch(self, indent: int) -> None:
        test = self.condition(2)
        self.emit(indent, f"if {test.metal}:", f"if {test.model}:")
        self.block(indent + 1)
        if self.rng.random() < 0.3:
            test = self.condition(1)
            self.emit(indent, f"elif {test.metal}:", f"elif {test.model}:")
            self.block(indent + 1)
        if self.rng.random() < 0.6:
            self.emit(indent, "else:")
            self.block(indent + 1)

    def loop(self, indent: int) -> None:
        if self.loops >= 2:
            return self.declare(indent)
        self.loops += 1
        name = self.name()
        known = dict(self.variables)
        choice = self.rng.random()
        if choice < 0.3:
            kind = self.rng.choice(("u8", "u32", "i32", "u64"))
            turns = self.rng.randrange(1, 6)
            self.emit(indent, f"{name}: {kind} = {turns}", f"{name} = {turns}")
            test = self.condition(1)
            self.emit(indent, f"while {name} != 0 and {test.metal}:", f"while {name} != 0 and {test.model}:")
            self.emit(indent + 1, f"{name} -= 1")
            self.variables[name] = kind
        else:
            kind, text = self.range()
            self.emit(indent, f"for {name} in range({text.metal}):", f"for {name} in range({text.model}):")
            self.variables[name] = kind
            if choice < 0.6 and self.rng.random() < 0.3:
                self.emit(indent + 1, f"{name} = {name} ^ 3")
        self.frozen.add(name)
        self.body(indent + 1)
        self.frozen.discard(name)
        self.variables = known
        self.loops -= 1

    def range(self) -> tuple[str, Text]:
        kind = self.rng.choice(("u8", "u16", "u32", "i32", "u64", "i64"))
        choice = self.rng.random()
        limit = self.leaf(kind)
        bound = Text(f"({limit.metal}) % 6", f"({limit.model}) % 6")
        if choice < 0.3:
            return kind, bound
        if choice < 0.5:
            low = self.leaf(kind)
            return kind, Text(f"({low.metal}) % 4, {bound.metal}", f"({low.model}) % 4, {bound.model}")
        if choice < 0.7:
            step = self.rng.choice((2, 3, 5))
            return kind, Text(f"1, {bound.metal}, {step}", f"1, {bound.model}, {step}")
        step = self.rng.choice((1, 2, 3))
        if TYPES[kind][1] or choice < 0.85:
            return kind, Text(f"{bound.metal}, 0, -{step}", f"{bound.model}, 0, -{step}")
        return kind, Text(f"{bound.metal}, -1, -{step}", f"{bound.model}, -1, -{step}")

    def body(self, indent: int) -> None:
        if self.rng.random() < 0.3:
            test = self.condition(1)
            word = self.rng.choice(("break", "continue"))
            self.emit(indent, f"if {test.metal}:", f"if {test.model}:")
            self.emit(indent + 1, word)
        self.block(indent)

    def iterate(self, indent: int) -> None:
        if self.loops >= 2:
            return self.declare(indent)
        self.loops += 1
        name, known = self.name(), dict(self.variables)
        array = self.rng.choice([*ARRAYS, "TABLE"])
        source = array if array == "TABLE" else f"s.{array}"
        kind = "u32" if array == "TABLE" else ARRAYS[array][0]
        if self.rng.random() < 0.3:
            counter = self.name()
            self.emit(indent, f"for {counter}, {name} in enumerate({source}):")
            self.variables[counter] = "u64"
            self.frozen.add(counter)
        else:
            self.emit(indent, f"for {name} in {source}:")
        self.variables[name] = kind
        self.body(indent + 1)
        self.variables = known
        self.loops -= 1

    def unrolled(self, indent: int) -> None:
        if self.loops >= 2:
            return self.declare(indent)
        self.loops += 1
        known = dict(self.variables)
        name = self.name()
        values = tuple(self.rng.randrange(200) for _ in range(self.rng.randrange(1, 4)))
        self.emit(indent, f"for {name} in unroll({values}):", f"for {name} in {values}:")
        kind = self.rng.choice(("u8", "u32", "u64"))
        value = self.expression(kind, 1)
        self.emit(
            indent + 1,
            f"s.s_{kind} = ({value.metal}) + {name}",
            f"s.s_{kind} = cut('{kind}', ({value.model}) + {name})",
        )
        self.body(indent + 1)
        self.variables = known
        self.loops -= 1

    def matching(self, indent: int) -> None:
        if self.rng.random() < 0.5:
            self.emit(indent, "match s.colour:", "match s.colour:")
            for colour, number in COLOURS.items():
                self.emit(indent + 1, f"case Colour{self.number}.{colour}:", f"case {number}:")
                self.block(indent + 2)
            return
        subject = self.expression("u8", 1)
        numbers = self.rng.sample(range(12), 4)
        self.emit(indent, f"match {subject.metal}:", f"match {subject.model}:")
        self.emit(indent + 1, f"case {numbers[0]} | {numbers[1]}:")
        self.block(indent + 2)
        if self.rng.random() < 0.4:
            test = self.condition(1)
            self.emit(indent + 1, f"case {numbers[2]} if {test.metal}:", f"case {numbers[2]} if {test.model}:")
            self.block(indent + 2)
        self.emit(indent + 1, f"case {numbers[3]}:")
        self.block(indent + 2)
        if self.rng.random() < 0.6:
            self.emit(indent + 1, "case _:")
            self.block(indent + 2)

    def unpack(self, indent: int) -> None:
        known = [f for f in self.functions if f.pair]
        if known and not self.loops:
            function = self.rng.choice(known)
            arguments = [self.leaf(type) for type in function.parameters]
            owner = self.state()
            metal = ", ".join([owner, *(a.metal for a in arguments)])
            model = ", ".join([owner, *(a.model for a in arguments)])
            a, b = self.name(), self.name()
            self.emit(indent, f"{a}, {b} = {function.name}({metal})", f"{a}, {b} = {function.name}({model})")
            self.variables[a] = function.result
            return
        if len(self.assignable()) >= 2:
            a, b = self.rng.sample(self.assignable(), 2)
            x, y = self.expression(self.variables[a], 1), self.expression(self.variables[b], 1)
            self.emit(indent, f"{a}, {b} = {x.metal}, {y.metal}", f"{a}, {b} = {x.model}, {y.model}")
            return
        self.declare(indent)

    # --- functions

    def function(self) -> Function:
        name = f"f{len(self.functions)}"
        parameters = [self.rng.choice(list(TYPES)) for _ in range(self.rng.randrange(0, 4))]
        result, pair = self.rng.choice(list(TYPES)), self.rng.random() < 0.2
        self.variables = {f"p{i}": kind for i, kind in enumerate(parameters)}
        self.fresh, self.loops, self.frozen, self.pointers = 0, 0, set(), []
        metal = "".join(f", p{i}: {kind}" for i, kind in enumerate(parameters))
        model = "".join(f", p{i}" for i in range(len(parameters)))
        given = f"tuple[{result}, bool]" if pair else result
        self.emit(0, f"def {name}(s: State{self.number}{metal}) -> {given}:", f"def {name}(s{model}):")
        self.statements(1, self.rng.randrange(2, 7))
        value, test = self.expression(result, 3), self.condition(1)
        if pair:
            self.emit(1, f"return {value.metal}, {test.metal}", f"return {value.model}, {test.model}")
        else:
            self.emit(1, f"return {value.metal}", f"return {value.model}")
        self.emit(0, "")
        function = Function(name, parameters, result, pair)
        self.functions.append(function)
        return function
