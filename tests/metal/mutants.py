# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: E501 - a mutant is a line of its own
"""Miscompilations put into the compiler on purpose: the tests have to notice each.

`python tests/metal/mutants.py` tries all of them and prints the score of docs/metal.md; numbers as arguments
choose. A mutant is one change of one line of a copy of the compiler.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from mutation import Mutant, score

_SEMANTICS = ("arithmetic", "loops", "differential", "cases", "language", "jit")
_RULES = ("cases", "specification", "language", "jit", "differential")

_VALUES, _MEMORY = "metal/emit/values.py", "metal/emit/memory.py"
_STATEMENTS = "metal/emit/statements.py"
_CONVERSION, _OPERATORS = "metal/check/conversion.py", "metal/check/operators.py"

MUTANTS = (
    # Arithmetic.
    Mutant(_VALUES, '"-": "sub", "*": "mul"', '"-": "sub nuw", "*": "mul"'),
    Mutant(_VALUES, '"+": "add"', '"+": "add nsw"'),
    Mutant(_VALUES, '"|": "or", "^": "xor"', '"|": "xor", "^": "xor"'),
    Mutant(_VALUES, 'sub {type} 0, {operand}")', 'xor {type} -1, {operand}")'),
    Mutant(_VALUES, 'xor {type} {operand}, -1")', 'sub {type} 0, {operand}")'),
    Mutant(_VALUES, '"ashr" if signed else "lshr"', '"lshr"'),
    Mutant(_VALUES, "if bits <= (1 << amount_bits) - 1:", "if bits < 8:"),
    Mutant(_VALUES, "icmp ult {amount_type} {amount}, {bits}", "icmp ule {amount_type} {amount}, {bits}"),
    Mutant(_VALUES, "{type} {amount}, {type} {bits - 1}", "{type} {amount}, {type} 0"),
    Mutant(_VALUES, "if not is_signed(node.type):\n        return body.let(f\"{'udiv'", "if True:\n        return body.let(f\"{'udiv'"),
    Mutant(_VALUES, "{'udiv' if quotient else 'urem'}", "{'sdiv' if quotient else 'srem'}"),
    Mutant(_VALUES, 'down = body.let(f"sext i1', 'down = body.let(f"zext i1'),
    Mutant(_VALUES, "{type} {shifted}, {type} {rest}", "{type} {rest}, {type} {rest}"),
    Mutant(_VALUES, "{type} {negated}, {type} {floored}", "{type} {left}, {type} {floored}"),
    Mutant(_VALUES, 'icmp ne {type} {right}, 0"), "division by zero"', 'icmp ne {type} {right}, 1"), "division by zero"'),
    Mutant(_VALUES, "'s' if is_signed(node.type) else 'u'}{node.operator}", "'u'}{node.operator}"),
    Mutant(_VALUES, '("s" if is_signed(type) else "u") + {"<"', '"u" + {"<"'),
    Mutant(_VALUES, '">": "gt", ">=": "ge"', '">": "ge", ">=": "ge"'),
    Mutant(_VALUES, "{'sext' if is_signed(source) else 'zext'} i{old}", "zext i{old}"),
    Mutant(_VALUES, '"count_leading_zeros": ("ctlz"', '"count_leading_zeros": ("cttz"'),
    # Conditions and choices.
    Mutant(_VALUES, 'edges.append(("false" if conjunction else "true", body.block))', 'edges.append(("true" if conjunction else "false", body.block))'),
    Mutant(_VALUES, "        left = right\n", ""),
    Mutant(_VALUES, "((yes, node.yes), (no, node.no))", "((yes, node.no), (no, node.yes))"),
    Mutant(_STATEMENTS, '(more, no) if node.operator == "and" else (yes, more)', '(more, no) if node.operator == "or" else (yes, more)'),
    Mutant(_STATEMENTS, "condition(body, node.operand, no, yes)", "condition(body, node.operand, yes, no)"),
    # Bit fields.
    Mutant(_VALUES, "if node.low + node.width < bits:", "if node.low + node.width < bits - 1:"),
    Mutant(_VALUES, "if node.width < width(node.type):", "if node.low == 0:"),
    Mutant(_VALUES, "mask = ~(ones << node.low)", "mask = ~(1 << node.low)"),
    Mutant(_VALUES, "node.value.value & ones) << node.low", "node.value.value & ones) << 0"),
    # Places.
    Mutant(_MEMORY, "ptr {base}, i64 {place.offset}", "ptr {base}, i64 {place.offset & ~1}"),
    Mutant(_MEMORY, "icmp ult i64 {index}, {count}", "icmp ule i64 {index}, {count}"),
    Mutant(_MEMORY, "offset = place.index.value * size", "offset = place.index.value"),
    Mutant(_MEMORY, 'icmp ne i8 {operand}, 0")', 'icmp eq i8 {operand}, 0")'),
    Mutant(_MEMORY, "load atomic {type}, ptr {address} acquire", "load atomic {type}, ptr {address} monotonic"),
    Mutant(_MEMORY, "ptr {address} release", "ptr {address} monotonic"),
    Mutant(_MEMORY, '"fetch_or": "or", "fetch_and": "and"', '"fetch_or": "or", "fetch_and": "or"'),
    Mutant(_MEMORY, "{expected}, {type} {operand} acq_rel", "{operand}, {type} {expected} acq_rel"),
    Mutant(_MEMORY, '"volatile " if order == "once" or place.window else ""\n    text = f"load', '""\n    text = f"load'),
    Mutant(_MEMORY, 'i64 {node.size}, i1 false', 'i64 {node.size // 2}, i1 false'),
    Mutant("metal/emit/text.py", "return 8 if isinstance(type, ArrayType | TupleType | PointerType)", "return 4 if isinstance(type, ArrayType | TupleType | PointerType)"),
    Mutant("bits/layout.py", "cursor = -(-cursor // alignment) * alignment", "cursor = cursor // alignment * alignment"),
    # Statements.
    Mutant(_STATEMENTS, "    operand = value(body, node.value)  # Python evaluates the value first, then the target\n    address = memory.pointer(body, node.place)\n", "    address = memory.pointer(body, node.place)\n    operand = value(body, node.value)\n"),
    Mutant(_STATEMENTS, "sub {type} {span}, 1", "sub {type} {span}, 0"),
    Mutant(_STATEMENTS, "(\"lt\" if node.step > 0 else \"gt\")", "(\"le\" if node.step > 0 else \"ge\")"),
    Mutant(_STATEMENTS, "'add' if node.step > 0 else 'sub'", "'add'"),
    Mutant(_STATEMENTS, "body.jump(body.continues[-1])", "body.jump(body.breaks[-1])"),
    Mutant(_STATEMENTS, "body.continues.append(again)", "body.continues.insert(0, again)"),
    Mutant(_STATEMENTS, "for number in case.values if number not in taken]", "for number in case.values[:1] if number not in taken]"),
    Mutant(_STATEMENTS, "condition(body, case.guard, label, following)", "condition(body, case.guard, following, label)"),
    Mutant(_STATEMENTS, "body.fail(\"no case for this value\")", "body.jump(end)"),
    # The checker.
    Mutant(_CONVERSION, "if source.signed != target.signed:", "if False:"),
    Mutant(_CONVERSION, "if source.bits > target.bits:", "if source.bits > 2 * target.bits:"),
    Mutant(_CONVERSION, "if source.nullable and not target.nullable:", "if False:"),
    Mutant(_CONVERSION, "target.minimum <= number <= target.maximum", "target.minimum <= number <= target.maximum + 1"),
    Mutant(_CONVERSION, "    refuse_short_shift(value, target, node)\n    return", "    return"),
    Mutant(_OPERATORS, "if not 0 <= right.value < type.bits:", "if not 0 <= right.value <= type.bits:"),
    Mutant(_OPERATORS, "if amount.signed:", "if False:"),
    Mutant(_OPERATORS, 'if symbol == "-" and left.type is right.type:', 'if symbol == "-":'),
    Mutant("metal/check/scope.py", "self.assigned & other.assigned", "self.assigned | other.assigned"),
    Mutant("metal/check/scope.py", "self.present & other.present", "self.present | other.present"),
    Mutant("metal/check/scope.py", "held=self.held & other.held", "held=self.held | other.held"),
    Mutant("metal/check/loops.py", "            scope.flow.present.discard(variable)\n", "            pass\n"),
    Mutant("metal/check/tokens.py", "for variable in scope.flow.maybe_held:", "for variable in ():"),
    Mutant("metal/check/tokens.py", "for variable in turn.maybe_held - before.held:", "for variable in ():"),
    Mutant("metal/check/tokens.py", "for variable in before.held - turn.held:", "for variable in ():"),
    Mutant("metal/check/places.py", "if array.count is not None and index.value >= array.count:", "if False:"),
    Mutant("metal/check/places.py", "    if place.constant:\n", "    if False:\n"),
    Mutant("metal/check/matching.py", "missing = [member.name for member in kind.enum if int(member) not in seen]", "missing = []"),
    Mutant("metal/program.py", "if state.get(callee.symbol) == 1:", "if callee.symbol == symbol:"),
    Mutant("bits/register.py", "if other.mask & bits.mask and", "if other.mask == bits.mask and"),
)  # fmt: skip


def onlookers(mutant: Mutant) -> list[str]:
    """What looks at it, the most likely to notice first."""
    names = _SEMANTICS if "/emit/" in mutant.file else _RULES
    return [f"tests/metal/test_{name}.py" for name in names]


if __name__ == "__main__":
    score(MUTANTS, onlookers)
