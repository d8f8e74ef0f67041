# SPDX-License-Identifier: Apache-2.0
"""Expressions: each rule emits instructions and gives the operand that holds the value."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gz.bits.types import NEVER, NONE, AddressType, ArrayType, BoolType, PointerType, Type
from gz.metal import tree
from gz.metal.emit import instructions, memory
from gz.metal.emit.body import Body
from gz.metal.emit.text import alignment, is_signed, memory_type, value_type, width


def value(body: Body, node: tree.Expression) -> str:
    """Emit an expression. Of calls without a result the operand is empty."""
    return _RULES[type(node)](body, node)


def _constant(body: Body, node: tree.Constant) -> str:
    if isinstance(node.type, BoolType):
        return "true" if node.value else "false"
    if isinstance(node.type, PointerType):
        return "null"
    return str(node.value)


def _read(body: Body, node: tree.Read) -> str:
    body.at(node.at)
    type = memory_type(node.variable.type)
    loaded = body.let(f"load {type}, ptr {body.slot(node.variable)}, align {alignment(node.variable.type)}")
    return body.let(f"trunc i8 {loaded} to i1") if isinstance(node.type, BoolType) else loaded


def assign(body: Body, variable: tree.Variable, operand: str) -> None:
    """Store a value into a local."""
    if isinstance(variable.type, BoolType):
        operand = body.let(f"zext i1 {operand} to i8")
    body.do(
        f"store {memory_type(variable.type)} {operand}, ptr {body.slot(variable)}, align {alignment(variable.type)}"
    )


def _reference(body: Body, node: tree.Reference) -> str:
    return memory.pointer(body, node.place)


def _slice(body: Body, node: tree.Slice) -> str:
    base = value(body, node.base)
    count = value(body, node.count)
    body.at(node.at)
    if isinstance(node.base.type, AddressType):
        base = body.let(f"inttoptr i64 {base} to ptr")
    half = body.let(f"insertvalue {{ptr, i64}} poison, ptr {base}, 0")
    return body.let(f"insertvalue {{ptr, i64}} {half}, i64 {count}, 1")


def _length(body: Body, node: tree.Length) -> str:
    array = value(body, node.array)
    return body.let(f"extractvalue {{ptr, i64}} {array}, 1")


_PLAIN = {"+": "add", "-": "sub", "*": "mul", "&": "and", "|": "or", "^": "xor"}


def _binary(body: Body, node: tree.Binary) -> str:
    left = value(body, node.left)
    right = value(body, node.right)
    body.at(node.at)
    if node.operator in _PLAIN:
        return body.let(f"{_PLAIN[node.operator]} {value_type(node.type)} {left}, {right}")
    if node.operator in ("<<", ">>"):
        return _shift(body, node, left, right)
    return _divide(body, node, left, right)


def _shift(body: Body, node: tree.Binary, left: str, amount: str) -> str:
    """An amount of the width or more gives 0, of a signed >> the sign; LLVM's shifts alone would give poison."""
    type, bits = value_type(node.type), width(node.type)
    signed = node.operator == ">>" and is_signed(node.type)
    operation = "shl" if node.operator == "<<" else "ashr" if signed else "lshr"
    if isinstance(node.right, tree.Constant):
        if node.right.value < bits:
            return body.let(f"{operation} {type} {left}, {amount}")
        return body.let(f"ashr {type} {left}, {bits - 1}") if signed else "0"
    amount_type, amount_bits = value_type(node.right.type), width(node.right.type)
    fits = "true"
    if bits <= (1 << amount_bits) - 1:
        fits = body.let(f"icmp ult {amount_type} {amount}, {bits}")
    if amount_bits < bits:
        amount = body.let(f"zext {amount_type} {amount} to {type}")
    elif amount_bits > bits:
        amount = body.let(f"trunc {amount_type} {amount} to {type}")
    if signed:
        amount = body.let(f"select i1 {fits}, {type} {amount}, {type} {bits - 1}")
        return body.let(f"ashr {type} {left}, {amount}")
    shifted = body.let(f"{operation} {type} {left}, {amount}")
    return body.let(f"select i1 {fits}, {type} {shifted}, {type} 0")


def _divide(body: Body, node: tree.Binary, left: str, right: str) -> str:
    """Python's // and %: towards minus infinity, the remainder has the divisor's sign."""
    type = value_type(node.type)
    quotient = node.operator == "//"
    if not isinstance(node.right, tree.Constant):
        body.require(body.let(f"icmp ne {type} {right}, 0"), "division by zero")
    if not is_signed(node.type):
        return body.let(f"{'udiv' if quotient else 'urem'} {type} {left}, {right}")
    minus = body.let(f"icmp eq {type} {right}, -1")  # sdiv of the least number by -1 is undefined in LLVM
    divisor = body.let(f"select i1 {minus}, {type} 1, {type} {right}")
    rest = body.let(f"srem {type} {left}, {divisor}")
    mixed = body.let(f"xor {type} {rest}, {divisor}")
    opposite = body.let(f"icmp slt {type} {mixed}, 0")
    inexact = body.let(f"icmp ne {type} {rest}, 0")
    adjust = body.let(f"and i1 {opposite}, {inexact}")
    if not quotient:
        shifted = body.let(f"add {type} {rest}, {divisor}")
        floored = body.let(f"select i1 {adjust}, {type} {shifted}, {type} {rest}")
        return body.let(f"select i1 {minus}, {type} 0, {type} {floored}")
    truncated = body.let(f"sdiv {type} {left}, {divisor}")
    down = body.let(f"sext i1 {adjust} to {type}")
    floored = body.let(f"add {type} {truncated}, {down}")
    negated = body.let(f"sub {type} 0, {left}")
    return body.let(f"select i1 {minus}, {type} {negated}, {type} {floored}")


_COUNTS = {
    "popcount": ("ctpop", ""),
    "count_leading_zeros": ("ctlz", ", i1 false"),
    "count_trailing_zeros": ("cttz", ", i1 false"),
    "byte_swap": ("bswap", ""),
    "abs": ("abs", ", i1 false"),
}


def _unary(body: Body, node: tree.Unary) -> str:
    operand = value(body, node.operand)
    body.at(node.at)
    type = value_type(node.type)
    if node.operator == "-":
        return body.let(f"sub {type} 0, {operand}")
    if node.operator == "~":
        return body.let(f"xor {type} {operand}, -1")
    name, extra = _COUNTS[node.operator]
    body.module.declare(f"declare {type} @llvm.{name}.{type}({type}{', i1 immarg' if extra else ''})")
    return body.let(f"call {type} @llvm.{name}.{type}({type} {operand}{extra})")


def _extreme(body: Body, node: tree.Extreme) -> str:
    first, second = (value(body, operand) for operand in node.operands)
    body.at(node.at)
    type = value_type(node.type)
    name = f"llvm.{'s' if is_signed(node.type) else 'u'}{node.operator}.{type}"
    body.module.declare(f"declare {type} @{name}({type}, {type})")
    return body.let(f"call {type} @{name}({type} {first}, {type} {second})")


def _relation(operator: str, type: Type) -> str:
    if operator in ("==", "!="):
        return "eq" if operator == "==" else "ne"
    return ("s" if is_signed(type) else "u") + {"<": "lt", "<=": "le", ">": "gt", ">=": "ge"}[operator]


def _compare(body: Body, node: tree.Compare) -> str:
    operands = node.operands
    left = value(body, operands[0])
    if len(operands) == 2:
        right = value(body, operands[1])
        body.at(node.at)
        return _icmp(body, node.operators[0], operands[0].type, left, right)
    end = body.label("chain")
    edges: list[tuple[str, str]] = []
    for index, operator in enumerate(node.operators):
        right = value(body, operands[index + 1])
        held = _icmp(body, operator, operands[index].type, left, right)
        if index == len(node.operators) - 1:
            edges.append((held, body.block))
            body.jump(end)
        else:
            edges.append(("false", body.block))
            more = body.label("next")
            body.branch(held, more, end)
            body.start(more)
        left = right
    body.start(end)
    return body.let("phi i1 " + ", ".join(f"[ {held}, %{block} ]" for held, block in edges))


def _icmp(body: Body, operator: str, type: Type, left: str, right: str) -> str:
    return body.let(f"icmp {_relation(operator, type)} {value_type(type)} {left}, {right}")


def _logic(body: Body, node: tree.Logic) -> str:
    end = body.label("logic")
    conjunction = node.operator == "and"
    edges: list[tuple[str, str]] = []
    for index, operand in enumerate(node.operands):
        held = value(body, operand)
        if index == len(node.operands) - 1:
            edges.append((held, body.block))
            body.jump(end)
        else:
            edges.append(("false" if conjunction else "true", body.block))
            more = body.label("next")
            body.branch(held, *((more, end) if conjunction else (end, more)))
            body.start(more)
    body.start(end)
    return body.let("phi i1 " + ", ".join(f"[ {held}, %{block} ]" for held, block in edges))


def _not(body: Body, node: tree.Not) -> str:
    operand = value(body, node.operand)
    return body.let(f"xor i1 {operand}, true")


def _is_none(body: Body, node: tree.IsNone) -> str:
    operand = value(body, node.operand)
    return body.let(f"icmp eq ptr {operand}, null")


def _choose(body: Body, node: tree.Choose) -> str:
    condition = value(body, node.condition)
    yes, no, end = body.label("yes"), body.label("no"), body.label("chosen")
    body.at(node.at)
    body.branch(condition, yes, no)
    edges: list[tuple[str, str]] = []
    for label, part in ((yes, node.yes), (no, node.no)):
        body.start(label)
        operand = value(body, part)
        if part.type is NEVER:
            continue
        edges.append((operand, body.block))
        body.jump(end)
    body.start(end)
    merged = ", ".join(f"[ {operand}, %{block} ]" for operand, block in edges)
    return body.let(f"phi {value_type(node.type)} {merged}")


def _convert(body: Body, node: tree.Convert) -> str:
    operand = value(body, node.operand)
    body.at(node.at)
    return convert(body, operand, node.operand.type, node.type)


def convert(body: Body, operand: str, source: Type, target: Type) -> str:
    """A value of one scalar type as another: truncated, extended or taken as it is."""
    if isinstance(source, ArrayType):
        operand = body.let(f"extractvalue {{ptr, i64}} {operand}, 0")
        return body.let(f"ptrtoint ptr {operand} to i64")
    if isinstance(source, PointerType):
        return operand if isinstance(target, PointerType) else body.let(f"ptrtoint ptr {operand} to i64")
    if isinstance(target, PointerType):
        return body.let(f"inttoptr i64 {operand} to ptr")
    old, new = width(source), width(target)
    if new == old:
        return operand
    if new < old:
        return body.let(f"trunc i{old} {operand} to i{new}")
    return body.let(f"{'sext' if is_signed(source) else 'zext'} i{old} {operand} to i{new}")


def _bits(body: Body, node: tree.Bits) -> str:
    operand = value(body, node.operand)
    body.at(node.at)
    type, bits = value_type(node.type), width(node.type)
    if node.low:
        operand = body.let(f"lshr {type} {operand}, {node.low}")
    if node.low + node.width < bits:
        operand = body.let(f"and {type} {operand}, {(1 << node.width) - 1}")
    return operand


def _insert(body: Body, node: tree.Insert) -> str:
    operand = value(body, node.operand)
    field = value(body, node.value)
    body.at(node.at)
    type, ones = value_type(node.type), (1 << node.width) - 1
    if isinstance(node.value, tree.Constant):
        field = str((node.value.value & ones) << node.low)
    else:
        if node.width < width(node.type):
            field = body.let(f"and {type} {field}, {ones}")
        if node.low:
            field = body.let(f"shl {type} {field}, {node.low}")
    mask = ~(ones << node.low) & (1 << width(node.type)) - 1
    operand = body.let(f"and {type} {operand}, {mask}")
    return body.let(f"or {type} {operand}, {field}")


def _tuple(body: Body, node: tree.Tuple) -> str:
    operands = [value(body, element) for element in node.elements]
    body.at(node.at)
    whole, type = "poison", value_type(node.type)
    for index, (operand, element) in enumerate(zip(operands, node.elements, strict=True)):
        whole = body.let(f"insertvalue {type} {whole}, {value_type(element.type)} {operand}, {index}")
    return whole


def _item(body: Body, node: tree.Item) -> str:
    whole = value(body, node.tuple)
    return body.let(f"extractvalue {value_type(node.tuple.type)} {whole}, {node.index}")


def call(body: Body, signature: tree.Signature, operands: Sequence[str]) -> str:
    """Call with operands that are there already."""
    types = [value_type(parameter.type) for parameter in signature.parameters]
    listed = ", ".join(f"{type} {operand}" for type, operand in zip(types, operands, strict=True))
    result = value_type(signature.result)
    name = body.module.callee(body, signature)
    text = f"call {result} {name}({listed})"
    if result != "void":
        return body.let(text)
    body.do(text)
    if signature.result is NEVER:
        body.end("unreachable")
    return ""


def _call(body: Body, node: tree.Call) -> str:
    operands = [value(body, argument) for argument in node.arguments]
    body.at(node.at)
    return call(body, node.signature, operands)


def _call_table(body: Body, node: tree.CallTable) -> str:
    """A switch over the index with direct calls: LLVM makes a table of it, and may put the functions in place."""
    index = value(body, node.index)
    operands = [value(body, argument) for argument in node.arguments]
    body.at(node.at)
    if not isinstance(node.index, tree.Constant):
        body.require(body.let(f"icmp ult i64 {index}, {len(node.functions)}"), "index beyond the function table")
    usual = max(node.functions, key=lambda signature: sum(other is signature for other in node.functions))
    labels: dict[str, tuple[str, tree.Signature]] = {}
    for signature in node.functions:
        if signature.symbol not in labels:
            labels[signature.symbol] = body.label("case"), signature
    cases = " ".join(
        f"i64 {number}, label %{labels[signature.symbol][0]}"
        for number, signature in enumerate(node.functions)
        if signature is not usual
    )
    body.end(f"switch i64 {index}, label %{labels[usual.symbol][0]} [ {cases} ]")
    end = body.label("called")
    edges: list[str] = []
    for label, signature in labels.values():
        body.start(label)
        result = call(body, signature, operands)
        if not body.terminated:
            edges.append(f"[ {result}, %{body.block} ]")
            body.jump(end)
    body.start(end)
    if node.type is NONE:
        return ""
    return body.let(f"phi {value_type(node.type)} {', '.join(edges)}")


_RULES: dict[type[tree.Expression], Callable[[Body, Any], str]] = {
    tree.Constant: _constant,
    tree.Read: _read,
    tree.Load: lambda body, node: memory.load(body, node),
    tree.Reference: _reference,
    tree.Slice: _slice,
    tree.Length: _length,
    tree.Binary: _binary,
    tree.Unary: _unary,
    tree.Extreme: _extreme,
    tree.Compare: _compare,
    tree.Logic: _logic,
    tree.Not: _not,
    tree.IsNone: _is_none,
    tree.Choose: _choose,
    tree.Convert: _convert,
    tree.Bits: _bits,
    tree.Insert: _insert,
    tree.Tuple: _tuple,
    tree.Item: _item,
    tree.Call: _call,
    tree.CallTable: _call_table,
    tree.Atomic: lambda body, node: memory.atomic(body, node),
    tree.Instruction: lambda body, node: instructions.instruction(body, node),
}
