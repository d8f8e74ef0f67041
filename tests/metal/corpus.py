# SPDX-License-Identifier: Apache-2.0
"""A little of everything in the language: what the front end is fed mutations of."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

from gz.arm64.insn import dc, dsb, hvc, isb, read, tlbi, write
from gz.arm64.sysreg import SysRegs, sysreg
from gz.bits import (
    Array,
    Held,
    Ipa,
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
    i32,
    i64,
    storage,
    table,
    u8,
    u16,
    u32,
    u64,
)
from gz.metal import (
    address,
    compare_exchange,
    const,
    copy,
    count_leading_zeros,
    fetch_add,
    held,
    hook,
    inline,
    load_acquire,
    log,
    mmio,
    noinline,
    panic,
    peek8,
    peek32,
    poke64,
    popcount,
    read_once,
    releases,
    store_release,
    unroll,
    view,
    write_once,
)

PAGE = 4096
LOG = Va(0x900_0000)
NAMES = ("zero", "one", "two")
SAVED = (SysRegs.VBAR_EL1, SysRegs.TPIDR_EL1, SysRegs.ELR_EL1)


@enumeration(u32)
class Colour(IntEnum):
    RED = 0
    GREEN = 1
    BLUE = 7


class State(IntEnum):
    IDLE = 0
    BUSY = 1


class Control(Register, width=32):
    ENABLE = field(0)
    MODE = field(3, 1)
    COUNT = field(31, 16)


class Uart(Window):
    DR: u32 = at(0)
    FR: u32 = at(0x18)
    BUFFER: Array[u32] = array(4, at=0x40)


class Lock(Struct):
    next: u32
    serving: u32


class Node(Struct):
    lock: Lock
    value: i64
    control: Control
    colour: Colour
    state: State
    small: u8
    ready: bool
    ipa: Ipa
    pa: Pa
    words: Array[u64] = array(8)
    parent: Ptr[Node] | None
    owner: Ptr[Tree]
    children: Array[Ptr[Node] | None] = array(4)

    def total(self) -> u64:
        sum: u64 = 0
        for word in self.words:
            sum += word
        return sum


class Tree(Struct, align=64):
    nodes: Array[Node] = array(4)
    count: u32
    registers: Array[u64] = array(len(SAVED))


TREES = storage(Tree, 3)
FIRST = storage(Node)
WEIGHTS = table(u16, [1, 10, 100, 1000])
SHAPES = table(Lock, [{"next": 1, "serving": 2}, {"next": 3, "serving": 4}])


@hook("text")
def write_text(text: Va, length: u64) -> None:
    for i in range(length):
        mmio(Uart, LOG).DR = peek8(text + i)


@hook("number")
def write_number(value: u64, base: u32, signed: bool) -> None:
    mmio(Uart, LOG).DR = u32(value) + (base if signed else 0)


Visit = Callable[[Node], u64]


def by_value(node: Node) -> u64:
    return u64(node.value)


def by_count(node: Node) -> u64:
    return node.total() + node.control.COUNT


VISITS = function_table(Visit, [by_value, by_count, by_value])


@const
def mask(bits: int) -> int:
    return (1 << bits) - 1


@inline
def acquire(lock: Lock) -> None:
    ticket = fetch_add(lock.next, 1)
    while load_acquire(lock.serving) != ticket:
        pass


@inline
def release(lock: Lock) -> None:
    store_release(lock.serving, lock.serving + 1)


@noinline
def widths(a: u8, b: u16, c: i32, d: i64) -> i64:
    wide: u32 = a + b
    wide <<= 3
    signed = i64(c) * d - 7
    if c < 0 and d != 0:
        signed = signed // d
    return signed + i64(u64(wide) & mask(12)) % 5


def pair(x: u64, y: u64) -> tuple[u64, bool]:
    low, high = min(x, y), max(x, y)
    if high - low >= PAGE:
        return low, True
    return (high >> 2) | (low << 62), low == high or x > 10


def find(tree: Tree, value: i64) -> Node | None:
    for i in range(tree.count):
        node = tree.nodes[i]
        if node.value == value:
            return node
    return None


def colours(node: Node, which: Colour) -> u32:
    match which:
        case Colour.RED:
            node.state = State.BUSY
            return 1
        case Colour.GREEN | Colour.BLUE:
            node.colour = Colour.RED
        case _:
            panic(f"colour {which} of {node.value:d}")
    return u32(which) + 1


def registers(node: Node, mode: u32) -> Control:
    control = Control(ENABLE=1, MODE=mode & 7)
    if control.MODE == 3:
        control = control.replace(COUNT=node.small)
    node.control = control
    return Control(u32(node.control) | 0x100)


def pointers(tree: Tree, index: u64) -> u64:
    node = tree.nodes[index % len(tree.nodes)]
    parent = node.parent
    if parent is None:
        parent = FIRST
    child = parent.children[index & 3]
    if child is not None and child.ready:
        copy(child.words, node.words)
        return VISITS[index](child)
    node.owner = tree
    return address(node) - address(tree)


def addresses(base: Pa, ipa: Ipa, size: u64) -> Pa:
    end = base + size
    assert end > base, "the range wraps"
    if ipa + size > Ipa(1 << 40):
        return Pa(0)
    poke64(Va(u64(end)), u64(ipa))
    return Pa(u64(end) & ~(PAGE - 1))


def hardware(tree: Tree) -> u64:
    for i, register in unroll(enumerate(SAVED)):
        tree.registers[i] = read(register)
        write(register, 0)
    sysreg.VTTBR_EL2 = tree.registers[0]
    isb()
    tlbi("vmalls12e1is")
    dsb("ish")
    dc("civac", address(tree))
    a, b, _, _ = hvc(0x8400_0000, sysreg.ESR_EL2)
    return a ^ b


def device(base: Va, text: u64) -> u32:
    uart = mmio(Uart, base)
    while uart.FR & 0x20 != 0:
        continue
    uart.DR = u32(text & 0xFF)
    uart.BUFFER[text % 4] = 1
    return uart.FR if text != 0 else peek32(base)


def loops(limit: u64) -> u64:
    result: u64 = 0
    for i in range(3):
        result += i
    for j in range(2, 20, 3):
        if j == 8:
            continue
        if j > limit:
            break
        result ^= j << j
    for name in unroll(NAMES):
        log(f"{name} {result:#x}")
    while True:
        result -= 1
        if result < 5:
            break
    return result


def atomics(node: Node, expected: u64) -> bool:
    acquire(node.lock)
    old = compare_exchange(node.words[1], expected, expected + 1)
    write_once(node.words[2], read_once(node.words[3]) + popcount(old))
    node.ready = not node.ready
    release(node.lock)
    return old == expected and -1 < node.value <= 100


def views(va: Va, count: u64) -> u64:
    items = view(Array[u64], va, count)
    total: u64 = len(items)
    for item in items:
        total += item if item < 100 else count_leading_zeros(item)
    lock = view(Lock, va)
    lock.next = WEIGHTS[total & 3] + SHAPES[1].serving
    return total


@inline
def hold(tree: Tree) -> Held[Tree]:
    while fetch_add(tree.count, 1) != 0:
        pass
    return held(tree)


@releases
def let_go(tree: Held[Tree]) -> None:
    store_release(tree.count, 0)


def prune(tree: Tree, depth: u64) -> u64:
    held_tree = hold(tree)
    if depth > 8:
        let_go(held_tree)
        return 0
    total: u64 = 0
    for i in range(depth):
        if held_tree.registers[0] == i:
            break
        total += i
    let_go(held_tree)
    return total


ROOTS = [prune, widths, pair, find, colours, registers, pointers, addresses, hardware, device, loops, atomics, views]
