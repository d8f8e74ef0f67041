# SPDX-License-Identifier: Apache-2.0
"""What is known at a point of a function while it is checked."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gz.bits.annotation import LAYOUTS
from gz.bits.types import Type
from gz.metal.errors import Diagnostic, Poisoned, Refusal, similar
from gz.metal.tree import Expression, Position, Signature, Variable

MISSING: Any = object()


@dataclass
class Flow:
    """What holds whenever control is here. `present`: variables that are not None."""

    assigned: set[Variable] = field(default_factory=set[Variable])
    present: set[Variable] = field(default_factory=set[Variable])
    reachable: bool = True
    #: Locals that hold a token, and those that hold one on some way.
    held: set[Variable] = field(default_factory=set[Variable])
    maybe_held: set[Variable] = field(default_factory=set[Variable])

    def copy(self) -> Flow:
        """The same, to be changed apart."""
        return Flow(set(self.assigned), set(self.present), self.reachable, set(self.held), set(self.maybe_held))

    def merge(self, other: Flow) -> Flow:
        """What holds if control came one way or the other."""
        if not self.reachable:
            return other.copy()
        if not other.reachable:
            return self.copy()
        return Flow(
            self.assigned & other.assigned,
            self.present & other.present,
            held=self.held & other.held,
            maybe_held=self.maybe_held | other.maybe_held,
        )

    @staticmethod
    def nowhere() -> Flow:
        """What holds where control never comes."""
        return Flow(reachable=False)


@dataclass
class Loop:
    """What control brings to the place behind the loop and to its next turn."""

    exits: list[Flow] = field(default_factory=list[Flow])
    turns: list[Flow] = field(default_factory=list[Flow])


class Scope:
    """One function's names, variables and errors. `declare` turns a called function into its signature."""

    def __init__(self, signature: Signature, declare: Callable[[Callable[..., Any], type | None], Signature]) -> None:
        self.signature = signature
        self.source = signature.source
        self.function: Any = signature.function
        self.declare = declare
        self.variables: dict[str, Variable] = {}
        self.all_variables: list[Variable] = []
        self.constants: dict[str, Any] = {}
        self.expired: set[str] = set()
        self.poisoned: set[str] = set()
        self.flow = Flow()
        self.loops: list[Loop] = []
        self.diagnostics: list[Diagnostic] = []
        self.calls: list[tuple[Signature, Any]] = []
        #: Tokens that the statement being checked has made and not yet given to a local.
        self.loose: list[tuple[Expression, ast.Call]] = []
        self.local_names = assigned_names(self.source.definition)
        self.globals = self.function.__globals__
        cells = zip(self.function.__code__.co_freevars, self.function.__closure__ or (), strict=False)
        self.closure = dict(cells)

    def at(self, node: ast.AST) -> Position:
        """Where a node is."""
        place: Any = node
        return place.lineno, place.col_offset + 1

    def report(self, refusal: Refusal, statement: ast.AST) -> None:
        """Note an error, at its node or else at the statement."""
        node = refusal.node if refusal.node is not None else statement
        self.diagnostics.append(self.source.diagnostic(node, refusal.message, refusal.hint))

    def new_variable(self, name: str, type: Type, node: ast.AST) -> Variable:
        """A local; its name is not yet bound."""
        variable = Variable(name, type, self.at(node))
        self.all_variables.append(variable)
        return variable

    def hidden(self, type: Type, node: ast.AST) -> Variable:
        """A variable of the compiler's own."""
        return self.new_variable("", type, node)

    def global_value(self, name: str) -> Any:
        """What a name that is not local stands for, MISSING if nothing."""
        if name in self.closure:
            try:
                return self.closure[name].cell_contents
            except ValueError:
                return MISSING
        if name in self.globals:
            return self.globals[name]
        found = LAYOUTS.get(name, ())
        if len(found) == 1:
            return found[0]
        return getattr(builtins, name, MISSING)

    def undefined(self, node: ast.Name) -> Refusal:
        """The error for a name that stands for nothing, with a similar one."""
        known = {*self.variables, *self.globals, *self.constants, "min", "max", "abs", "len", "range"}
        return Refusal(node, f"{node.id} is not defined", similar(node.id, known))

    def local(self, node: ast.Name) -> Variable:
        """The variable that a name reads; refused if it may have no value."""
        name = node.id
        if name in self.poisoned:
            raise Poisoned
        variable = self.variables.get(name)
        if variable is None:
            if name in self.expired:
                raise Refusal(node, f"{name} is a constant of the unrolled loop above, unknown behind it")
            hint = "it is assigned here, so it is a local" if name in self.globals else ""
            raise Refusal(node, f"{name} has no value here", hint)
        if variable not in self.flow.assigned:
            raise Refusal(node, f"{name} may have no value here", "give it one on every way")
        return variable


def assigned_names(definition: ast.FunctionDef) -> frozenset[str]:
    """Every name that the function binds."""
    arguments = definition.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
    return frozenset(argument.arg for argument in named if argument is not None) | stored_names(definition.body)


def stored_names(body: Iterable[ast.stmt]) -> frozenset[str]:
    """What statements of the language, and those in them, assign to."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop()
        for part in ("body", "orelse", "cases"):
            waiting += getattr(node, part, ())
        for target in (*getattr(node, "targets", ()), getattr(node, "target", None)):
            if isinstance(target, ast.Name):
                found.add(target.id)
            elif target is not None:
                found |= {name.id for name in ast.walk(target) if isinstance(name, ast.Name) and _is_stored(name)}
    return frozenset(found)


def _is_stored(name: ast.Name) -> bool:
    return isinstance(name.ctx, ast.Store)
