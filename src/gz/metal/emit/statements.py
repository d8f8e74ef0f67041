# SPDX-License-Identifier: Apache-2.0
"""Statements: control flow, assignments, texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from gz.metal import tree
from gz.metal.emit import memory
from gz.metal.emit.body import Body
from gz.metal.emit.text import is_signed, value_type, width
from gz.metal.emit.values import assign, value


def block(body: Body, statements: Sequence[tree.Statement]) -> None:
    """Statements in order; what follows the end of control is left out."""
    for statement in statements:
        if body.terminated:
            return
        body.at(statement.at)
        _RULES[type(statement)](body, statement)


def _assign(body: Body, node: tree.Assign) -> None:
    operand = value(body, node.value)
    if not body.terminated:
        body.at(node.at)
        assign(body, node.variable, operand)


def _store(body: Body, node: tree.Store) -> None:
    operand = value(body, node.value)  # Python evaluates the value first, then the target
    address = memory.pointer(body, node.place)
    body.at(node.at)
    memory.store(body, node.place, address, operand, node.order)


def _update(body: Body, node: tree.Update) -> None:
    address = memory.pointer(body, node.place)
    assign(body, node.old, memory.fetch(body, node.place, address))
    operand = value(body, node.value)
    body.at(node.at)
    memory.store(body, node.place, address, operand)


def _copy(body: Body, node: tree.Copy) -> None:
    memory.copy(body, node)


def _evaluate(body: Body, node: tree.Evaluate) -> None:
    value(body, node.value)


def condition(body: Body, node: tree.Expression, yes: str, no: str) -> None:
    """Branch on a condition; and, or, not become control flow."""
    if isinstance(node, tree.Constant):
        body.jump(yes if node.value else no)
    elif isinstance(node, tree.Not):
        condition(body, node.operand, no, yes)
    elif isinstance(node, tree.Logic):
        for operand in node.operands[:-1]:
            more = body.label("next")
            condition(body, operand, *((more, no) if node.operator == "and" else (yes, more)))
            body.start(more)
        condition(body, node.operands[-1], yes, no)
    else:
        held = value(body, node)
        body.at(node.at)
        body.branch(held, yes, no)


def _if(body: Body, node: tree.If) -> None:
    yes, end = body.label("then"), body.label("endif")
    no = body.label("else") if node.no else end
    condition(body, node.condition, yes, no)
    reached = not node.no
    body.start(yes)
    block(body, node.yes)
    reached |= not body.terminated
    body.jump(end)
    if node.no:
        body.start(no)
        block(body, node.no)
        reached |= not body.terminated
        body.jump(end)
    if reached:
        body.start(end)


def _loop(body: Body, statements: Sequence[tree.Statement], again: str, end: str) -> None:
    body.breaks.append(end)
    body.continues.append(again)
    block(body, statements)
    body.breaks.pop()
    body.continues.pop()


def _while(body: Body, node: tree.While) -> None:
    again, inside, end = body.label("while"), body.label("body"), body.label("endwhile")
    body.start(again)
    condition(body, node.condition, inside, end)
    body.start(inside)
    _loop(body, node.body, again, end)
    body.jump(again)
    body.start(end)


def _count(body: Body, node: tree.Count) -> None:
    """What the body does to the variable does not change how often it runs."""
    variable = node.variable
    counter = tree.Variable("", variable.type, node.at)
    assign(body, counter, value(body, node.start))
    if node.stop is not None and abs(node.step) == 1:
        _count_simply(body, node, counter, node.stop)
        return
    type, step = value_type(variable.type), abs(node.step)
    inside, again, more, end = (body.label(part) for part in ("body", "next", "more", "endfor"))
    left = tree.Variable("", variable.type, node.at)
    start = value(body, tree.Read(variable.type, node.at, counter))
    if node.stop is None:
        assign(body, left, body.let(f"udiv {type} {start}, {step}"))
        body.jump(inside)
    else:
        stop = value(body, node.stop)
        body.at(node.at)
        high, low = (stop, start) if node.step > 0 else (start, stop)
        some = body.let(f"icmp {'sgt' if is_signed(variable.type) else 'ugt'} {type} {high}, {low}")
        span = body.let(f"sub {type} {high}, {low}")
        assign(body, left, body.let(f"udiv {type} {body.let(f'sub {type} {span}, 1')}, {step}"))
        body.branch(some, inside, end)
    body.start(inside)
    assign(body, variable, value(body, tree.Read(variable.type, node.at, counter)))
    _loop(body, node.body, again, end)
    body.start(again)
    rest = value(body, tree.Read(variable.type, node.at, left))
    body.branch(body.let(f"icmp eq {type} {rest}, 0"), end, more)
    body.start(more)
    assign(body, left, body.let(f"sub {type} {rest}, 1"))
    _step(body, node, counter)
    body.jump(inside)
    body.start(end)


def _count_simply(body: Body, node: tree.Count, counter: tree.Variable, stop: tree.Expression) -> None:
    type = value_type(counter.type)
    again, inside, following, end = (body.label(part) for part in ("for", "body", "next", "endfor"))
    limit = value(body, stop)
    body.start(again)
    body.at(node.at)
    now = value(body, tree.Read(counter.type, node.at, counter))
    relation = ("s" if is_signed(counter.type) else "u") + ("lt" if node.step > 0 else "gt")
    body.branch(body.let(f"icmp {relation} {type} {now}, {limit}"), inside, end)
    body.start(inside)
    assign(body, node.variable, now)
    _loop(body, node.body, following, end)
    body.start(following)
    _step(body, node, counter)
    body.jump(again)
    body.start(end)


def _step(body: Body, node: tree.Count, counter: tree.Variable) -> None:
    body.at(node.at)
    type = value_type(counter.type)
    now = value(body, tree.Read(counter.type, node.at, counter))
    assign(body, counter, body.let(f"{'add' if node.step > 0 else 'sub'} {type} {now}, {abs(node.step)}"))


def _iterate(body: Body, node: tree.Iterate) -> None:
    assign(body, node.array, value(body, node.array_value))
    assign(body, node.index, "0")
    again, inside, following, end = (body.label(part) for part in ("for", "body", "next", "endfor"))
    body.start(again)
    count = value(body, node.count)
    body.at(node.at)
    index = body.let(f"load i64, ptr {body.slot(node.index)}, align 8")
    body.branch(body.let(f"icmp ult i64 {index}, {count}"), inside, end)
    body.start(inside)
    assign(body, node.variable, value(body, node.element))
    if node.counter is not None:
        assign(body, node.counter, index)
    _loop(body, node.body, following, end)
    body.start(following)
    body.at(node.at)
    now = body.let(f"load i64, ptr {body.slot(node.index)}, align 8")
    assign(body, node.index, body.let(f"add i64 {now}, 1"))
    body.jump(again)
    body.start(end)


def _unroll(body: Body, node: tree.Unroll) -> None:
    end = body.label("unrolled")
    for turn in node.bodies:
        following = body.label("turn")
        _loop(body, turn, following, end)
        body.start(following)
    body.start(end)


def _switch(body: Body, node: tree.Switch) -> None:
    subject = value(body, node.subject)
    body.at(node.at)
    type, end = value_type(node.subject.type), body.label("endmatch")
    other = body.label("other")
    labels = [body.label("case") for _ in node.cases]
    if all(case.guard is None for case in node.cases):
        taken: set[int] = set()
        arms: list[str] = []
        for label, case in zip(labels, node.cases, strict=True):
            arms += [f"{type} {number}, label %{label}" for number in case.values if number not in taken]
            taken.update(case.values)
        body.end(f"switch {type} {subject}, label %{other} [ {' '.join(arms)} ]")
    else:
        for label, case in zip(labels, node.cases, strict=True):
            _guarded(body, case, type, subject, label)
        body.jump(other)
    reached = False
    for label, case in zip(labels, node.cases, strict=True):
        body.start(label)
        block(body, case.body)
        reached |= not body.terminated
        body.jump(end)
    body.start(other)
    if node.default is None:
        body.fail("no case for this value")
    else:
        block(body, node.default)
        reached |= not body.terminated
        body.jump(end)
    if reached:
        body.start(end)


def _guarded(body: Body, case: tree.Case, type: str, subject: str, label: str) -> None:
    following = body.label("next")
    for number in case.values:
        hit, miss = body.label("hit"), body.label("miss")
        body.branch(body.let(f"icmp eq {type} {subject}, {number}"), hit, miss)
        body.start(hit)
        if case.guard is None:
            body.jump(label)
        else:
            condition(body, case.guard, label, following)
        body.start(miss)
    body.start(following)


def _break(body: Body, node: tree.Break) -> None:
    body.jump(body.breaks[-1])


def _continue(body: Body, node: tree.Continue) -> None:
    body.jump(body.continues[-1])


def _return(body: Body, node: tree.Return) -> None:
    operand = value(body, node.value) if node.value is not None else ""
    if body.terminated:
        return
    body.at(node.at)
    body.end(f"ret {value_type(body.signature.result)} {operand}".rstrip())


def _assert(body: Body, node: tree.Assert) -> None:
    if len(node.pieces) == 1 and node.pieces[0].number is None:
        held = value(body, node.condition)
        body.at(node.at)
        body.require(held, node.pieces[0].text)
        return
    go, fail = body.label("ok"), body.label("fail")
    held = value(body, node.condition)
    body.branch(held, go, fail, body.module.unlikely)
    body.start(fail)
    _give_up(body, node.pieces)
    body.start(go)


def _panic(body: Body, node: tree.Panic) -> None:
    _give_up(body, node.pieces)


def _give_up(body: Body, pieces: Sequence[tree.Piece]) -> None:
    failures = body.module.failures
    path, line = body.signature.source.path, body.position[0]
    if all(piece.number is None for piece in pieces) or body.signature.symbol in body.module.within_hooks:
        body.fail("".join(piece.text for piece in pieces))
        return
    body.do(f"call void @gz.begin_panic(i32 {failures.site('', path, line)})")
    _pieces(body, pieces)
    body.do("call void @gz.end_panic()")
    body.end("unreachable")


def _log(body: Body, node: tree.Log) -> None:
    last = node.pieces[-1] if node.pieces else tree.Piece("")
    if last.number is None:
        pieces = [*node.pieces[:-1], tree.Piece(last.text + "\n")]
    else:
        pieces = [*node.pieces, tree.Piece("\n")]
    body.module.failures.need_text(body.signature, node.at)
    _pieces(body, pieces)


def _pieces(body: Body, pieces: Sequence[tree.Piece]) -> None:
    for piece in pieces:
        if piece.number is None:
            name, length = body.module.text(body, piece.text)
            body.do(f"call void @gz.write_text(ptr {name}, i64 {length})")
            continue
        operand = value(body, piece.number)
        source = piece.number.type
        if width(source) < 64:
            operand = body.let(f"{'sext' if is_signed(source) else 'zext'} {value_type(source)} {operand} to i64")
        signed = "true" if is_signed(source) and piece.base == 10 else "false"
        body.do(f"call void @gz.write_number(i64 {operand}, i32 {piece.base}, i1 {signed})")


def _trap(body: Body, node: tree.Trap) -> None:
    body.module.declare("declare void @llvm.debugtrap()")
    body.do("call void @llvm.debugtrap()")
    body.end("unreachable")


_RULES: dict[type[tree.Statement], Callable[[Body, Any], None]] = {
    tree.Assign: _assign,
    tree.Store: _store,
    tree.Update: _update,
    tree.Copy: _copy,
    tree.Evaluate: _evaluate,
    tree.If: _if,
    tree.While: _while,
    tree.Count: _count,
    tree.Iterate: _iterate,
    tree.Unroll: _unroll,
    tree.Switch: _switch,
    tree.Break: _break,
    tree.Continue: _continue,
    tree.Return: _return,
    tree.Assert: _assert,
    tree.Panic: _panic,
    tree.Log: _log,
    tree.Trap: _trap,
}
