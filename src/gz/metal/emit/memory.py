# SPDX-License-Identifier: Apache-2.0
"""Places: where they are, and the one load or store that accesses them.

Every access states its alignment: without it LLVM takes 4 for 64-bit integers and splits them under strict-align.
"""

from __future__ import annotations

from gz.bits.types import AddressType, BoolType, Type, align_of, size_of
from gz.metal import tree
from gz.metal.emit import values
from gz.metal.emit.body import Body
from gz.metal.emit.text import memory_type
from gz.metal.target import Machine


def pointer(body: Body, place: tree.Place) -> str:
    """The operand that points to a place; an index is checked here."""
    if isinstance(place, tree.Declared):
        return body.module.global_object(place.object)
    if isinstance(place, tree.Member):
        base = values.value(body, place.base)
        body.at(place.at)
        return body.let(f"getelementptr i8, ptr {base}, i64 {place.offset}") if place.offset else base
    if isinstance(place, tree.Element):
        return _element(body, place)
    assert isinstance(place, tree.At)
    base = values.value(body, place.base)
    body.at(place.at)
    return body.let(f"inttoptr i64 {base} to ptr") if isinstance(place.base.type, AddressType) else base


def _element(body: Body, place: tree.Element) -> str:
    base = values.value(body, place.base)
    index = values.value(body, place.index)
    body.at(place.at)
    count = str(place.count)
    if place.count is None:
        count = body.let(f"extractvalue {{ptr, i64}} {base}, 1")
        base = body.let(f"extractvalue {{ptr, i64}} {base}, 0")
    if place.checked:
        body.require(body.let(f"icmp ult i64 {index}, {count}"), "index out of bounds")
    size = size_of(place.type)
    if isinstance(place.index, tree.Constant):
        offset = place.index.value * size
        return body.let(f"getelementptr i8, ptr {base}, i64 {offset}") if offset else base
    return body.let(f"getelementptr [{size} x i8], ptr {base}, i64 {index}")


def _to_memory(body: Body, operand: str, type: Type) -> str:
    return body.let(f"zext i1 {operand} to i8") if isinstance(type, BoolType) else operand


def _from_memory(body: Body, operand: str, type: Type) -> str:
    return body.let(f"icmp ne i8 {operand}, 0") if isinstance(type, BoolType) else operand


def _plainly(body: Body, place: tree.Place) -> bool:
    """Device registers on Arm: inline assembly of one plain instruction, so that a trap has a valid syndrome."""
    target = body.module.target
    return place.window and target.arm64 and target.machine is not Machine.FAKE


def load(body: Body, node: tree.Load) -> str:
    """The value of a place, by one load."""
    address = pointer(body, node.place)
    body.at(node.at)
    return fetch(body, node.place, address, node.order)


def fetch(body: Body, place: tree.Place, address: str, order: str = "") -> str:
    """The value of the place that `address` points to."""
    type = memory_type(place.type)
    if _plainly(body, place):
        return _from_memory(body, _plain_load(body, address, size_of(place.type), type), place.type)
    qualifier = "volatile " if order == "once" or place.window else ""
    text = f"load {qualifier}{type}, ptr {address}"
    if order == "acquire":
        text = f"load atomic {type}, ptr {address} acquire"
    return _from_memory(body, body.let(f"{text}, align {align_of(place.type)}"), place.type)


_SUFFIX = {1: "b", 2: "h", 4: "", 8: ""}


def _plain_load(body: Body, address: str, size: int, type: str) -> str:
    register, held = ("$0", "i64") if size == 8 else ("${0:w}", "i32")
    text = f'asm sideeffect "ldr{_SUFFIX[size]} {register}, [$1]", "=r,r,~{{memory}}"(ptr {address})'
    loaded = body.let(f"call {held} {text}")
    return body.let(f"trunc i32 {loaded} to {type}") if size < 4 else loaded


def store(body: Body, place: tree.Place, address: str, operand: str, order: str = "") -> None:
    """A value, as it is in registers, into the place that `address` points to."""
    type = memory_type(place.type)
    operand = _to_memory(body, operand, place.type)
    if _plainly(body, place):
        _plain_store(body, address, operand, size_of(place.type), type)
        return
    qualifier = "volatile " if order == "once" or place.window else ""
    text = f"store {qualifier}{type} {operand}, ptr {address}"
    if order == "release":
        text = f"store atomic {type} {operand}, ptr {address} release"
    body.do(f"{text}, align {align_of(place.type)}")


def _plain_store(body: Body, address: str, operand: str, size: int, type: str) -> None:
    register, held = ("${0:x}", "i64") if size == 8 else ("${0:w}", "i32")
    if size < 4:
        operand = body.let(f"zext {type} {operand} to i32")
    text = f'asm sideeffect "str{_SUFFIX[size]} {register}, [$1]", "rZ,r,~{{memory}}"'
    body.do(f"call void {text}({held} {operand}, ptr {address})")


_OPERATIONS = {"fetch_add": "add", "fetch_or": "or", "fetch_and": "and", "exchange": "xchg"}


def atomic(body: Body, node: tree.Atomic) -> str:
    """A read-modify-write; the old value."""
    place = node.place
    address = pointer(body, place)
    type, align = memory_type(place.type), align_of(place.type)
    expected = _to_memory(body, values.value(body, node.expected), place.type) if node.expected else ""
    operand = _to_memory(body, values.value(body, node.value), place.type)
    body.at(node.at)
    if node.expected is None:
        text = f"atomicrmw {_OPERATIONS[node.operator]} ptr {address}, {type} {operand} acq_rel, align {align}"
        return _from_memory(body, body.let(text), place.type)
    text = f"cmpxchg ptr {address}, {type} {expected}, {type} {operand} acq_rel acquire, align {align}"
    both = body.let(text)
    return _from_memory(body, body.let(f"extractvalue {{{type}, i1}} {both}, 0"), place.type)


def copy(body: Body, node: tree.Copy) -> None:
    """A memcpy with the alignment that both sides have."""
    target, source = values.value(body, node.target), values.value(body, node.source)
    body.at(node.at)
    body.module.declare("declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1 immarg)")
    ends = f"ptr align {node.align} {target}, ptr align {node.align} {source}"
    body.do(f"call void @llvm.memcpy.p0.p0.i64({ends}, i64 {node.size}, i1 false)")
