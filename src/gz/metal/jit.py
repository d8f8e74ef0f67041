# SPDX-License-Identifier: Apache-2.0
"""The program in this process, on a CPU that only pretends: for unit tests and fuzzers."""

from __future__ import annotations

import ctypes
import signal
import sys
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast

import llvmlite.binding as llvm

from gz.arm64.sysreg import TABLE
from gz.bits.annotation import as_value, type_of
from gz.bits.storage import Storage
from gz.bits.types import TupleType, Type, size_of
from gz.metal import engine, fake_cpu
from gz.metal.buffer import Buffer
from gz.metal.emit.text import value_type
from gz.metal.fake_cpu import Kind, Signature, Status, Word
from gz.metal.layout import PAGE
from gz.metal.values import from_word, members, to_words, view_at

EVENT_COUNT = 16384
REGISTER_COUNT = 32768


class Panic(Exception):
    """The program gave up: panic(), a failed assertion or check. `file` and `line` say where."""

    def __init__(self, message: str, file: str, line: int) -> None:
        super().__init__(f"{file}:{line}: {message}")
        self.message, self.file, self.line = message, file, line


class Fault(Exception):
    """The processor refused an instruction of the program: a wild address, or trap()."""

    def __init__(self, number: int, address: int) -> None:
        super().__init__(f"{signal.Signals(number).name} at address {address:#x}")
        self.signal, self.address = signal.Signals(number), address


class Hang(Exception):
    """The call did not end."""


class Event(NamedTuple):
    """A barrier or maintenance instruction, as "tlbi ipas2e1is", and its register argument, 0 without."""

    name: str
    value: int


class SystemRegisters:
    """`jit.sysregs.HCR_EL2`: read and set as integers, without calling hooks."""

    _values: memoryview

    def __init__(self, values: memoryview) -> None:
        object.__setattr__(self, "_values", values)

    def __getattr__(self, name: str) -> int:
        return self._values[register_index(name)]

    def __setattr__(self, name: str, value: int) -> None:
        self._values[register_index(name)] = int(value)


def register_index(name: str) -> int:
    """A system register's place among the fake ones; AttributeError for a name that the table lacks."""
    if name not in TABLE:
        raise AttributeError(f"there is no system register {name}")
    return TABLE[name].index


class Jit:
    """A program of the JIT target, compiled.

    `roots`: the functions that can be called, by their names in the IR. `storage`: their memory.
    `externs`: Python callables in place of @extern functions, by name; `extern_functions`: their
    declarations."""

    def __init__(
        self,
        ir: str,
        *,
        roots: Mapping[str, Callable[..., Any]],
        storage: Mapping[str, Storage] | None = None,
        extern_functions: Mapping[str, Callable[..., Any]] | None = None,
        externs: Mapping[str, Callable[..., Any]] | None = None,
        level: int = 1,
    ) -> None:
        self._words = fake_cpu.shared_page()
        self._roots = dict(roots)
        self._storage = dict(storage or {})
        self._externs = dict(extern_functions or {})
        self._outward = dict(fake_cpu.CALLBACKS)
        for name, function in self._externs.items():
            self._outward[name] = Signature.declared(*_types(function))
        self._raised: BaseException | None = None
        self._callbacks: dict[str, Any] = {}
        self._calls: dict[str, Callable[..., Any]] = {}
        self._raw: dict[str, Callable[..., int]] = {}
        self._engine = engine.compile(self._complete(ir), level)
        self._registers = self._array("gz_jit_sysregs", ctypes.c_uint64, REGISTER_COUNT)
        self._hooked = self._array("gz_jit_sysreg_hooks", ctypes.c_uint8, REGISTER_COUNT)
        self._event_count = self._array("gz_jit_event_count", ctypes.c_uint64, 1)
        self._events = self._array("gz_jit_events", ctypes.c_uint64, 3 * EVENT_COUNT)
        self._readers: dict[int, Callable[[], int]] = {}
        self._writers: dict[int, Callable[[int], None]] = {}
        self._callers: dict[str, Callable[..., Any]] = {}
        self.sysregs = SystemRegisters(self._registers)
        self._connect()
        for name, function in (externs or {}).items():
            self.define(name, function)

    # --- building

    def _complete(self, ir: str) -> llvm.ModuleRef:
        """The program's module with the ways in and out added."""
        module = llvm.parse_assembly(ir)
        parts = [fake_cpu.DECLARATIONS, fake_cpu.SINKS]
        for name in self._roots:
            parts.append(fake_cpu.way_in(name, Signature.of(module.get_function(name))))
        parts += [fake_cpu.way_out(name, signature) for name, signature in self._outward.items()]
        module.link_in(llvm.parse_assembly("".join(parts)))
        return module

    def _array(self, name: str, type: Any, count: int) -> memoryview:
        block = (type * count).from_address(self._engine.get_global_value_address(name))
        return memoryview(block).cast("B").cast("Q" if type is ctypes.c_uint64 else "B")

    def _pointer(self, name: str) -> ctypes.c_void_p:
        address = self._engine.get_global_value_address(name)
        if not address:
            raise LookupError(f"the program has no {name}")
        return ctypes.c_void_p.from_address(address)

    def _connect(self) -> None:
        """Put the stubs into the slots of gz.metal.target and Python's callbacks behind them."""
        sinks = {
            "on_text": "text",
            "on_number": "number",
            "on_panic_begin": "panic_begin",
            "on_panic": "panic",
        }
        for slot, sink in sinks.items():
            self._pointer(f"gz_jit_{slot}").value = self._engine.get_function_address(f"gz_jit_sink.{sink}")
        ways = {"on_read": self._on_read, "on_write": self._on_write, "on_smc": self._on_call}
        for slot, function in ways.items():
            self._way_out(f"gz_jit_{slot}", f"gz_jit_{slot}", function)

    def _way_out(self, name: str, slot: str, function: Callable[..., int | None]) -> None:
        count = sum(map(fake_cpu.word_count, self._outward[name].parameters))
        callback = ctypes.PYFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * count)(self._guarded(function))
        self._callbacks[name] = callback
        self._pointer(f"gz_jit_python.{name}").value = ctypes.cast(callback, ctypes.c_void_p).value
        self._pointer(slot).value = self._engine.get_function_address(f"gz_jit_leave.{name}")

    def _guarded(self, function: Callable[..., int | None]) -> Callable[..., int]:
        """ctypes would print an exception and go on; here it ends the call that led to the callback."""

        def guarded(*arguments: int) -> int:
            try:
                return function(*arguments) or 0
            except BaseException as error:
                self._raised = error
                self._words[Word.PENDING] = 1
                return 0

        return guarded

    # --- calling

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a root by its full name. Panic, Fault, Hang, or what a callback raised."""
        return self.fn(name)(*arguments)

    def fn(self, function: Callable[..., Any] | str) -> Callable[..., Any]:
        """A root as a Python function that converts arguments and result by their types."""
        name = function if isinstance(function, str) else f"{function.__module__}.{function.__qualname__}"
        if name not in self._calls:
            self._calls[name] = self._typed(name)
        return self._calls[name]

    def raw(self, name: str) -> Callable[..., int]:
        """A root that takes and gives 64-bit words unconverted; the fastest way in. A tuple gives 0."""
        if name not in self._raw:
            self._raw[name] = self._checked(name)
        return self._raw[name]

    def _checked(self, name: str) -> Callable[..., int]:
        address = self._engine.get_function_address(f"gz_jit_enter.{name}")
        if not address:
            raise LookupError(f"{name} is no root of the program")
        parameters, _ = _types(self._roots[name])
        count = sum(map(fake_cpu.word_count, map(value_type, parameters)))
        enter = ctypes.PYFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * count)(address)
        words, status, check = self._words, int(Word.STATUS), self._check

        def call(*arguments: int) -> int:
            word = enter(*arguments)
            if words[status]:
                check()
            return word

        return call

    def _typed(self, name: str) -> Callable[..., Any]:
        raw = self.raw(name)
        parameters, result = _types(self._roots[name])
        convert = to_words(parameters)
        backs = [from_word(member) for member in members(result)]
        if isinstance(result, TupleType):

            def call(*arguments: Any) -> Any:
                raw(*convert(arguments))
                return tuple([back(self._words[Word.RESULT + i]) for i, back in enumerate(backs)])

        elif backs:
            (back,) = backs

            def call(*arguments: Any) -> Any:
                return back(raw(*convert(arguments)))

        else:

            def call(*arguments: Any) -> Any:
                raw(*convert(arguments))

        return call

    def _check(self) -> None:
        """Raise what the last call ended with."""
        status = self._words[Word.STATUS]
        self._words[Word.STATUS] = 0
        if status == Status.PYTHON:
            self._words[Word.PENDING] = 0
            raised, self._raised = self._raised, None
            assert raised is not None
            raise raised
        if status == Status.FAULT:
            raise Fault(self._words[Word.SIGNAL], self._words[Word.FAULT_ADDRESS])
        if status == Status.HANG:
            raise Hang("the call did not end")
        raise self._panic()

    def _records(self) -> Iterable[tuple[int, int, int, int]]:
        words, count = self._words, self._words[Word.RECORDS]
        for index in range(max(0, count - fake_cpu.RECORD_COUNT), count):
            place = Word.RECORD + 4 * (index % fake_cpu.RECORD_COUNT)
            yield words[place], words[place + 1], words[place + 2], words[place + 3]

    def _panic(self) -> Panic:
        """What comes before it may be a program's that is gone, with its texts."""
        records = list(self._records())
        self._words[Word.RECORDS] = 0
        last = max((index for index, record in enumerate(records) if record[0] == Kind.PANIC), default=-1)
        text = "".join(_spell(*record) for record in records[last + 1 :])
        if last < 0:
            return Panic(text, "?", 0)
        _, file, length, line = records[last]
        return Panic(text, ctypes.string_at(file, length).decode(), line)

    # --- the fake machine

    @property
    def log(self) -> str:
        """What the program logged since the last reset or panic."""
        return "".join(_spell(*record) for record in self._records() if record[0] != Kind.PANIC)

    @property
    def events(self) -> list[Event]:
        """Barriers and maintenance in order, the latest 16384 at most."""
        count = self._event_count[0]
        found: list[Event] = []
        for index in range(max(0, count - EVENT_COUNT), count):
            name, length, value = self._events[3 * (index % EVENT_COUNT) : 3 * (index % EVENT_COUNT) + 3]
            found.append(Event(ctypes.string_at(name, length).decode(), value))
        return found

    def clear_events(self) -> None:
        """Forget the events so far."""
        self._event_count[0] = 0

    def on_read(self, name: str, function: Callable[[], int] | None) -> None:
        """Reads of a system register give what the function returns; None: the stored value again."""
        self._hook(name, 1, self._readers, function)

    def on_write(self, name: str, function: Callable[[int], None] | None) -> None:
        """The function is told each value written to a system register, which is also stored."""
        self._hook(name, 2, self._writers, function)

    def _hook(self, name: str, bit: int, functions: dict[int, Any], function: Any) -> None:
        index = register_index(name)
        if function is None:
            functions.pop(index, None)
            self._hooked[index] &= ~bit & 0xFF
        else:
            functions[index] = function
            self._hooked[index] |= bit

    def _on_read(self, index: int) -> int:
        return int(self._readers[index]()) & (1 << 64) - 1

    def _on_write(self, index: int, value: int) -> None:
        self._registers[index] = value
        self._writers[index](value)

    def on_hvc(self, function: Callable[..., Any] | None) -> None:
        """The function gets x0–x7 and returns up to four results; a single one may be an int."""
        self._on("hvc", function)

    def on_smc(self, function: Callable[..., Any] | None) -> None:
        """Who answers smc: called with x0 to x7, gives x0 and so on. None: nobody."""
        self._on("smc", function)

    def on_doorbell(self, function: Callable[..., Any] | None) -> None:
        """As on_hvc, with the doorbell page's address before x0–x7."""
        self._on("doorbell", function)

    def on_svc(self, function: Callable[..., Any] | None) -> None:
        """As on_hvc, with the number before x0-x5."""
        self._on("svc", function)

    def _on(self, name: str, function: Callable[..., Any] | None) -> None:
        if function is None:
            self._callers.pop(name, None)
        else:
            self._callers[name] = function

    def _on_call(self, name: int, length: int, arguments: int, results: int) -> None:
        kind = ctypes.string_at(name, length).decode()
        if kind not in self._callers:
            return
        count = {"doorbell": 9, "svc": 7}.get(kind, 8)
        given = self._callers[kind](*(ctypes.c_uint64 * count).from_address(arguments))
        if given is None:
            return
        values = cast("Sequence[int]", given if isinstance(given, tuple | list) else (given,))
        slots = (ctypes.c_uint64 * 4).from_address(results)
        for i, value in enumerate(values):
            slots[i] = int(value) & (1 << 64) - 1

    def define(self, name: str, function: Callable[..., Any]) -> None:
        """A Python callable in place of an @extern function."""
        if name not in self._externs:
            raise LookupError(f"{name} is no extern of the program")
        parameters, result = _types(self._externs[name])
        backs = [from_word(type) for type in parameters]
        convert = to_words(members(result))

        def bridge(*words: int) -> int | None:
            value = function(*[back(word) for back, word in zip(backs, words, strict=True)])
            results = convert(value if isinstance(result, TupleType) else (value,) if members(result) else ())
            self._words[Word.RESULT : Word.RESULT + len(results)] = memoryview(array("Q", results))
            return results[0] if results else None

        self._way_out(name, f"gz_jit_extern.{name}", bridge)

    # --- memory

    def buffer(self, size: int, align: int = PAGE) -> Buffer:
        """Zeroed memory with an address."""
        return Buffer(size, align)

    def storage(self, storage: Any) -> Any:
        """A storage, or the one of that full name, in this process: a struct's or an array's view."""
        name = storage if isinstance(storage, str) else storage.name
        if name not in self._storage:
            raise LookupError(f"no function of the program uses a storage {name}")
        type = self._storage[name].type
        return view_at(type, self._engine.get_global_value_address(name))

    def reset(self) -> None:
        """As after the start: storage, registers, hooks, events and log are empty."""
        for name, storage in self._storage.items():
            ctypes.memset(self._engine.get_global_value_address(name), 0, size_of(storage.type))
        ctypes.memset(ctypes.addressof(ctypes.c_ubyte.from_buffer(self._registers)), 0, 8 * REGISTER_COUNT)
        for index in {*self._readers, *self._writers}:
            self._hooked[index] = 0
        self._readers.clear()
        self._writers.clear()
        self._callers.clear()
        self.clear_events()
        self._words[Word.RECORDS] = 0


def _types(function: Callable[..., Any]) -> tuple[tuple[Type, ...], Type]:
    """The types of parameters and result as values."""
    names = vars(sys.modules[function.__module__])
    hints = dict(function.__annotations__)
    result = as_value(type_of(hints.pop("return", None), names))
    return tuple(as_value(type_of(hint, names)) for hint in hints.values()), result


def _spell(kind: int, a: int, b: int, c: int) -> str:
    """A piece of a logged text."""
    if kind == Kind.TEXT:
        return ctypes.string_at(a, b).decode(errors="replace")
    value = a - (1 << 64) if c and a >> 63 else a
    return format(value, {2: "b", 10: "d", 16: "x"}[b])  # the prefix is text of the program
