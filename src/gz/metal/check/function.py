# SPDX-License-Identifier: Apache-2.0
"""A whole function: its signature, then its body."""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any

import gz.metal.check.statements as statements
from gz.bits.annotation import AnnotationError, as_value, type_of
from gz.bits.types import NEVER, NONE, ArrayType, LayoutType, PointerType, TupleType, Type
from gz.bits.types import FunctionType as FunctionCallable
from gz.metal import tree
from gz.metal.check import tokens
from gz.metal.check.assignments import refuse_shadow
from gz.metal.check.scope import Scope
from gz.metal.errors import CompileError, Refusal
from gz.metal.functions import hook_of, marks
from gz.metal.reader import Source, read
from gz.metal.tree import Signature, Variable

Declare = Callable[[Callable[..., Any], type | None], Signature]


def signature(function: FunctionType, owner: type | None, symbol: str) -> Signature:
    """What callers need to know. CompileError if the annotations are missing or wrong."""
    source = read(function)
    definition = source.definition
    names = _names(function)
    try:
        parameters = _parameters(source, owner, names)
        if definition.returns is None:
            raise Refusal(definition, f"{function.__name__} needs a result type", "write -> None if it gives nothing")
        result = as_value(_type(definition.returns, names))
        _refuse_function(result, definition.returns)
    except Refusal as refusal:
        raise CompileError([source.diagnostic(refusal.node, refusal.message, refusal.hint)]) from None
    return Signature(function, source, symbol, parameters, result, marks(function))


def _names(function: FunctionType) -> Mapping[str, Any]:
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=False))
    closure = {name: cell.cell_contents for name, cell in cells.items() if _filled(cell)}
    return {**function.__globals__, **closure}


def _filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018
    except ValueError:
        return False
    return True


def _type(node: ast.expr, names: Mapping[str, Any]) -> Type:
    try:
        return type_of(node, names)
    except AnnotationError as error:
        place = error.node if error.node is not None and hasattr(error.node, "lineno") else node
        inside = isinstance(node, ast.Constant)  # an annotation in quotes: positions are those of its text
        raise Refusal(node if inside else place, str(error)) from None


def _parameters(source: Source, owner: type | None, names: Mapping[str, Any]) -> tuple[Variable, ...]:
    arguments = source.definition.args
    name = source.definition.name
    if arguments.vararg or arguments.kwarg or arguments.kwonlyargs:
        extra = arguments.vararg or arguments.kwarg or arguments.kwonlyargs[0]
        raise Refusal(extra, "parameters are plain: no *, no **, none by name only")
    if arguments.defaults:
        raise Refusal(arguments.defaults[0], "parameters have no defaults")
    found: list[Variable] = []
    for position, argument in enumerate([*arguments.posonlyargs, *arguments.args]):
        at = (argument.lineno, argument.col_offset + 1)
        if argument.annotation is None:
            if position == 0 and owner is not None and not _is_static(source, owner):
                found.append(Variable(argument.arg, PointerType(LayoutType(owner)), at, True))  # pyright: ignore[reportArgumentType]
                continue
            raise Refusal(argument, f"{argument.arg} of {name} needs a type")
        type = as_value(_type(argument.annotation, names))
        if type is NONE or type is NEVER:
            raise Refusal(argument.annotation, f"a parameter is never {type}")
        _refuse_function(type, argument.annotation)
        found.append(Variable(argument.arg, type, at, True))
    return tuple(found)


def _refuse_function(type: Type, node: ast.expr) -> None:
    if isinstance(type, FunctionCallable):
        raise Refusal(node, "functions are not values", "function_table(…) calls one by its number")


def _is_static(source: Source, owner: type) -> bool:
    return isinstance(vars(owner).get(source.definition.name), staticmethod)


_CONTRARY = (("inline", "noinline"), ("inline", "extern"), ("export", "extern"))


def check(signature: Signature, declare: Declare) -> tree.Function:
    """The typed tree of the function's body. CompileError with all its errors."""
    definition = signature.source.definition
    scope = Scope(signature, declare)
    if "extern" in signature.marks:
        _check_extern(scope, definition)
    _check_outside(scope, definition)
    for one, other in _CONTRARY:
        if {one, other} <= signature.marks:
            scope.report(Refusal(definition, f"{definition.name} is @{one} and @{other}"), definition)
    wrong = tokens.check_releases(signature)
    if wrong:
        scope.report(Refusal(definition, wrong), definition)
    for variable, argument in zip(
        signature.parameters, [*definition.args.posonlyargs, *definition.args.args], strict=True
    ):
        try:
            refuse_shadow(scope, argument)
        except Refusal as refusal:
            scope.report(refusal, definition)
        scope.variables[variable.name] = variable
        scope.all_variables.append(variable)
        scope.flow.assigned.add(variable)
    body: list[tree.Statement] | None = None
    if "extern" not in signature.marks:
        body = statements.block(scope, definition.body)
        if scope.flow.reachable and not scope.diagnostics:
            try:
                tokens.refuse_kept(scope, definition, f"at the end of {definition.name}")
            except Refusal as refusal:
                scope.report(refusal, definition)
            if signature.result is NEVER:
                scope.report(
                    Refusal(definition, f"{definition.name} is declared NoReturn, but its end is reached"),
                    definition,
                )
            elif signature.result is not NONE:
                scope.report(
                    Refusal(
                        definition,
                        f"{definition.name} ends without a return on some way",
                        f"it gives {signature.result}",
                    ),
                    definition,
                )
    if scope.diagnostics:
        raise CompileError(scope.diagnostics)
    return tree.Function(signature, body, scope.all_variables, scope.calls)


def _check_extern(scope: Scope, definition: ast.FunctionDef) -> None:
    body = [
        node
        for node in definition.body
        if not (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
    ]
    bare = [
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and node.value.value is ... for node in body
    ]
    if bare != [True]:
        scope.report(Refusal(definition, f"{definition.name} is @extern: its body is ..."), definition)


def _check_outside(scope: Scope, definition: ast.FunctionDef) -> None:
    """What the C calling convention can carry."""
    outside = {"export", "extern"} & scope.signature.marks or hook_of(scope.function) is not None
    if not outside:
        return
    kinds = [*(parameter.type for parameter in scope.signature.parameters), scope.signature.result]
    for kind in kinds:
        if isinstance(kind, ArrayType) or (isinstance(kind, TupleType) and len(kind.elements) > 2):
            scope.report(Refusal(definition, f"{kind} cannot cross to assembly or C"), definition)
