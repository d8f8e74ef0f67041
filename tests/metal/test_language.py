# SPDX-License-Identifier: Apache-2.0
"""What the differential fuzz does not reach: references, None, storage, tables, methods, hardware, texts."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum

import pytest

from gz.arm64.insn import dsb, hvc, tlbi
from gz.arm64.sysreg import SysRegs, read, sysreg, write
from gz.bits import (
    Array,
    Pa,
    Ptr,
    Register,
    Struct,
    Va,
    Window,
    array,
    at,
    enumeration,
    field,
    function_table,
    i64,
    storage,
    table,
    u8,
    u16,
    u32,
    u64,
)
from gz.metal import (
    Panic,
    Program,
    address,
    compare_exchange,
    const,
    copy,
    exchange,
    fetch_add,
    fetch_and,
    fetch_or,
    load_acquire,
    log,
    mmio,
    panic,
    peek8,
    peek64,
    poke16,
    read_once,
    store_release,
    unroll,
    view,
    write_once,
)
from gz.metal.jit import Jit


@enumeration(u8)
class Mood(IntEnum):
    CALM = 1
    WILD = 200


class Bits(Register, width=32):
    TOP = field(31, 28, Mood)
    LOW = field(3, 0)


class LangPoint(Struct):
    x: u32
    y: u16


class LangNode(Struct, align=32):
    value: u64
    next: Ptr[LangNode] | None
    point: LangPoint
    points: Array[LangPoint] = array(3)
    grid: Array[Array[u16]] = array(2, 3)
    links: Array[Ptr[LangNode] | None] = array(2)
    mood: Mood
    bits: Bits
    flag: bool
    place: Pa

    def total(self, extra: u64) -> u64:
        return self.value + extra

    def longest(self) -> u64:
        return self.total(1) + len(self.points)


class LangDevice(Window):
    CONTROL: u32 = at(0)
    BYTES: Array[u8] = array(4, at=8)


NODES = storage(LangNode, 3)
ONE = storage(LangNode)
WORDS = storage(u32, 5, align=64)
ROWS = table(LangPoint, [{"x": 7, "y": 8}, {"x": 9}])
PRIMES = table(u16, [2, 3, 5, 7])
MOODS = table(Mood, [Mood.WILD, Mood.CALM])
LIMITS = (10, 20, 30)
PAIRS = ((1, "one"), (2, "two"))


@const
def squared(n: int) -> int:
    return n * n


def chain(node: LangNode | None) -> u64:
    total: u64 = 0
    while node is not None:
        total += node.value
        node = node.next
    return total


def link(count: u64) -> u64:
    for i in range(count):
        NODES[i].value = i + 1
        NODES[i].next = NODES[i + 1] if i + 1 < count else None
        NODES[i].links[1] = NODES[0]
    return chain(NODES[0])


def linked() -> u64:
    other = NODES[1].links[1]
    if other is not None and other is NODES[0]:
        return other.value
    return 0


def copies(x: u32) -> u32:
    ONE.points[2].x = x
    copy(ONE.point, ONE.points[2])
    ONE.grid[1][2] = u16(x)
    return ONE.point.x + ONE.grid[1][2]


def methods(node: LangNode) -> u64:
    return node.longest() + NODES[0].total(5)


def summed(points: Array[LangPoint]) -> u64:
    total: u64 = len(points)
    for i, point in enumerate(points):
        total += i * point.x
    return total


def slices(node: LangNode) -> u64:
    return summed(node.points) + summed(ROWS) + summed(view(Array[LangPoint], address(node.points[1]), 2))


def beyond(count: u64, index: u64) -> u32:
    return view(Array[u32], address(WORDS), count)[index]


def tables(i: u32) -> u64:
    mood = MOODS[i]
    match mood:
        case Mood.CALM:
            return u64(PRIMES[i]) + ROWS[i].x
        case Mood.WILD:
            return 1000


def member(number: u8) -> u64:
    match Mood(number):
        case Mood.CALM:
            return 1
        case Mood.WILD:
            return 2


def registers(word: u32) -> u32:
    bits = Bits(word)
    changed = bits.replace(LOW=word >> 4, TOP=3)
    ONE.bits = changed
    return changed | ONE.bits.LOW


def constants() -> u64:
    total: u64 = squared(12)
    for limit in unroll(LIMITS):
        total += limit
    for number, _name in unroll(PAIRS):
        total += number
    return total + LangNode.size + LangNode.offset("flag") + len(LIMITS)


def atomics(node: LangNode) -> u64:
    a = fetch_add(node.value, 5)
    b = fetch_or(node.value, 0x100)
    c = fetch_and(node.value, 0x1FF)
    d = exchange(node.point.x, 77)
    e = compare_exchange(node.point.x, 77, 78)
    f = compare_exchange(node.point.x, 77, 79)
    store_release(node.point.y, 6)
    write_once(node.flag, True)
    wild = 1 if read_once(node.flag) else 0
    return a + b + c + d + e + f + load_acquire(node.point.y) + u64(wild)


def memory(va: Va) -> u64:
    poke16(va + 2, 0xABCD)
    return peek64(va) + peek8(va + 3)


def device(va: Va, index: u32) -> u32:
    window = mmio(LangDevice, va)
    window.CONTROL = window.CONTROL | 6
    window.BYTES[index] += 3
    return window.CONTROL + window.BYTES[index]


def machine(value: u64) -> u64:
    sysreg.VTTBR_EL2 = value
    for register in unroll((SysRegs.ELR_EL1, SysRegs.SPSR_EL1)):
        write(register, read(register) + 1)
    dsb("ish")
    tlbi("ipas2e1is", value >> 12)
    a, _b, _c, d = hvc(0x1234, value)
    return sysreg.VTTBR_EL2 + a * d


Handler = Callable[[u64], u64]


def double(n: u64) -> u64:
    return 2 * n


def triple(n: u64) -> u64:
    return 3 * n


HANDLERS = function_table(Handler, [double, triple, double])


def dispatch(index: u64, n: u64) -> u64:
    return HANDLERS[index](n)


def texts(n: i64) -> None:
    log(f"n is {n}, {u64(n):#x}, {PAIRS[0][1]} {n > 0}")
    if n < 0:
        panic(f"negative: {n}")
    assert n < 100, "too large"
    assert n < 50, f"{n} is {Va(u64(n))}"


ROOTS = [
    link, linked, copies, methods, slices, beyond, tables, member, registers, constants, atomics, memory, device,
    machine, dispatch, texts, chain,
]  # fmt: skip


@pytest.fixture(scope="module")
def program() -> Jit:
    return Program(roots=ROOTS).jit()


@pytest.fixture
def jit(program: Jit) -> Jit:
    program.reset()
    return program


def test_references(jit: Jit) -> None:
    assert jit.fn(link)(3) == 6
    assert jit.fn(linked)() == 1
    assert jit.fn(chain)(None) == 0
    assert jit.fn(copies)(5) == 10
    nodes = jit.storage(f"{__name__}.NODES")
    assert [node.value for node in nodes] == [1, 2, 3]
    assert nodes[2].next == 0
    with pytest.raises(Panic, match="index out of bounds"):
        jit.fn(link)(4)


def test_methods_and_arrays(jit: Jit) -> None:
    node = LangNode.view(bytearray(LangNode.size))
    node.value = 40
    for index in range(3):
        node.points[index].x = 10 * index
    assert jit.fn(methods)(node) == 41 + 3 + 5
    assert jit.fn(slices)(node) == (3 + 10 + 40) + (2 + 9) + (2 + 20)


def test_views_carry_their_length(jit: Jit) -> None:
    jit.storage(f"{__name__}.WORDS")[3] = 9
    assert jit.fn(beyond)(4, 3) == 9
    with pytest.raises(Panic, match="index out of bounds"):
        jit.fn(beyond)(3, 3)


def test_tables_and_enumerations(jit: Jit) -> None:
    assert jit.fn(tables)(0) == 1000
    assert jit.fn(tables)(1) == 3 + 9
    assert [jit.fn(member)(number) for number in (1, 200)] == [1, 2]
    with pytest.raises(Panic, match="no case for this value"):
        jit.fn(member)(2)


def test_registers(jit: Jit) -> None:
    assert jit.fn(registers)(0xF000_0AB5) == (0x3000_0ABB | 0xB)
    assert jit.storage(f"{__name__}.ONE").bits.LOW == 0xB


def test_constants(jit: Jit) -> None:
    assert jit.fn(constants)() == 144 + 60 + 3 + LangNode.size + LangNode.offset("flag") + 3


def test_atomics(jit: Jit) -> None:
    node = LangNode.view(bytearray(LangNode.size))
    node.value, node.point.x = 1, 70
    assert jit.fn(atomics)(node) == 1 + 6 + 0x106 + 70 + 77 + 78 + 6 + 1
    assert (node.value, node.point.x, node.point.y, node.flag) == (0x106, 78, 6, True)


def test_memory_and_devices(jit: Jit) -> None:
    place = ctypes.create_string_buffer(32)
    where = ctypes.addressof(place) + 15 & ~15
    assert jit.fn(memory)(where) == 0xABCD_0000 + 0xAB
    buffer = jit.buffer(4096)
    assert jit.fn(device)(buffer.address, 2) == 6 + 3
    assert jit.fn(device)(buffer.address, 2) == 6 + 6
    assert bytes(buffer.memory[:12]) == bytes((6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 6, 0))
    with pytest.raises(Panic, match="index out of bounds"):
        jit.fn(device)(buffer.address, 4)


def test_the_machine(jit: Jit) -> None:
    jit.sysregs.ELR_EL1 = 41

    def answer(*x: int) -> tuple[int, ...]:
        return x[0], 0, 0, x[1] & 0xF

    jit.on_hvc(answer)
    assert jit.fn(machine)(0x5003) == 0x5003 + 0x1234 * 3
    assert (jit.sysregs.ELR_EL1, jit.sysregs.SPSR_EL1) == (42, 1)
    assert [tuple(event) for event in jit.events] == [("dsb ish", 0), ("tlbi ipas2e1is", 5)]


def test_function_tables(jit: Jit) -> None:
    assert [jit.fn(dispatch)(index, 7) for index in range(3)] == [14, 21, 14]
    with pytest.raises(Panic, match="index beyond the function table"):
        jit.fn(dispatch)(3, 7)


def test_texts(jit: Jit) -> None:
    jit.fn(texts)(5)
    assert jit.log == "n is 5, 0x5, one 1\n"
    for number, message in ((-3, "negative: -3"), (100, "too large"), (60, "60 is 0x3c")):
        with pytest.raises(Panic) as caught:
            jit.fn(texts)(number)
        assert caught.value.message == message
        assert caught.value.file.endswith("test_language.py")
