# SPDX-License-Identifier: Apache-2.0
"""Expressions whose value is known at build time: names of the module, tables, layouts, @const functions."""

from __future__ import annotations

import ast
import builtins
import functools
import types
from collections.abc import Callable
from typing import Any, cast

from gz.bits.layout import LayoutMeta, sizeof
from gz.bits.register import Register
from gz.bits.storage import FunctionTable, Storage, Table
from gz.bits.sysreg import SysReg
from gz.metal.check.scope import MISSING, Scope
from gz.metal.errors import Refusal, similar
from gz.metal.functions import marks

#: Builtins that may be called with constants.
_BUILTINS: frozenset[Any] = frozenset(
    {
        len,
        min,
        max,
        abs,
        sum,
        int,
        tuple,
        list,
        set,
        dict,
        range,
        enumerate,
        zip,
        sorted,
        reversed,
        ord,
        any,
        all,
    }
)
_FOLDED = frozenset({len, min, max, abs, sum, int, ord, tuple})
_DYNAMIC = (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr, ast.Lambda)
_METHOD_OWNERS = (tuple, str, int, list, dict, frozenset, bytes)


def static(scope: Scope, node: ast.expr) -> Any:
    """The build-time object that an expression names; MISSING if its value is the running program's."""
    if isinstance(node, ast.Name):
        return _name(scope, node)
    if isinstance(node, ast.Attribute):
        return _attribute(scope, node)
    if isinstance(node, ast.Subscript):
        return _subscript(scope, node)
    if isinstance(node, ast.Call):
        return _call(scope, node)
    if isinstance(node, ast.Constant):
        return node.value
    return MISSING


def _name(scope: Scope, node: ast.Name) -> Any:
    if node.id in scope.constants:
        return scope.constants[node.id]
    if node.id in scope.local_names or node.id in scope.poisoned:
        return MISSING
    value = scope.global_value(node.id)
    if value is MISSING:
        raise scope.undefined(node)
    return value


def _attribute(scope: Scope, node: ast.Attribute) -> Any:
    base = static(scope, node.value)
    if base is MISSING or isinstance(base, Storage | Table | FunctionTable):
        return MISSING
    if is_register_file(base):
        return MISSING
    return attribute(base, node)


def attribute(base: Any, node: ast.Attribute) -> Any:
    """A build-time object's attribute; what is missing is the program's error."""
    try:
        value = getattr(base, node.attr)
    except AttributeError:
        owner = getattr(base, "__name__", None) or f"a {type(base).__name__}"
        hint = similar(node.attr, [name for name in dir(base) if not name.startswith("__")])
        raise Refusal(node, f"{owner} has no {node.attr}", hint) from None
    except TypeError as error:
        raise Refusal(node, str(error)) from None
    return value


def is_register_file(base: Any) -> bool:
    """Is it an object whose attributes are system registers?"""
    return _has_registers(type(cast("object", base)))


@functools.cache
def _has_registers(owner: type) -> bool:
    return any(isinstance(value, SysReg) for base in owner.__mro__ for value in vars(base).values())


def _subscript(scope: Scope, node: ast.Subscript) -> Any:
    base = static(scope, node.value)
    kind = type(cast("object", base))
    if base is MISSING or not issubclass(kind, tuple | list | dict | str | bytes | range):
        return MISSING
    index = constant(scope, node.slice)
    if index is MISSING:
        raise Refusal(
            node.slice,
            f"a Python {kind.__name__} is indexed by constants only",
            "make it a table(u64, …) to index it while running",
        )
    try:
        return base[index]
    except (LookupError, TypeError) as error:
        raise Refusal(node.slice, f"{type(error).__name__}: {error}") from None


def _call(scope: Scope, node: ast.Call) -> Any:
    function = static(scope, node.func)
    if function is MISSING or not _at_build_time(function):
        return MISSING
    required = "const" in marks(function)
    arguments = [constant(scope, argument) for argument in node.args]
    named = {keyword.arg or "": constant(scope, keyword.value) for keyword in node.keywords}
    for argument, value in zip(
        [*node.args, *(keyword.value for keyword in node.keywords)],
        [*arguments, *named.values()],
        strict=True,
    ):
        if value is MISSING:
            if required:
                raise Refusal(argument, f"{function.__name__} runs at build time: its arguments are constants")
            return MISSING
    return evaluate(node, lambda: function(*arguments, **named))


def _at_build_time(function: Any) -> bool:
    if isinstance(function, types.FunctionType):
        return function is sizeof or "const" in marks(function)
    if isinstance(function, type):
        return function in _FOLDED or issubclass(function, Register)
    owner = getattr(function, "__self__", None)
    if isinstance(function, types.BuiltinFunctionType):
        return function in _FOLDED or (isinstance(owner, _METHOD_OWNERS) and not isinstance(owner, types.ModuleType))
    if isinstance(function, types.MethodType):
        return isinstance(owner, Register | LayoutMeta)
    return False


def evaluate(node: ast.AST, work: Callable[[], Any]) -> Any:
    """Run build-time code; what it raises is the program's error."""
    try:
        return work()
    except (ValueError, TypeError) as error:
        raise Refusal(node, str(error)) from None
    except Exception as error:
        raise Refusal(node, f"{type(error).__name__} at build time: {error}") from None


def constant(scope: Scope, node: ast.expr) -> Any:
    """Like `static`, and through operators, displays and comprehensions; for arguments of build-time code."""
    value = static(scope, node)
    if value is not MISSING:
        return value
    if isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        return MISSING
    names: dict[str, Any] = {}
    comprehensions = [part for part in ast.walk(node) if isinstance(part, ast.comprehension)]
    bound = {name for part in comprehensions for name in _names(part.target)}
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and part.id not in bound and part.id not in names:
            names[part.id] = _name(scope, part)
            found = names[part.id]
            if found is MISSING or isinstance(found, Storage) or is_register_file(found):
                return MISSING
        elif isinstance(part, ast.Subscript) and isinstance(part.value, ast.Name | ast.Attribute):
            if _names(part.value).isdisjoint(bound) and isinstance(static(scope, part.value), Table):
                return MISSING  # its elements have a type, numbers have none
        elif isinstance(part, _DYNAMIC) or (isinstance(part, ast.Call) and not _safe(scope, part.func, bound)):
            return MISSING
    expression = ast.Expression(node)
    code = evaluate(node, lambda: compile(expression, scope.source.file, "eval"))
    return evaluate(node, lambda: eval(code, {"__builtins__": vars(builtins), **names}))


def _names(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}


def _safe(scope: Scope, function: ast.expr, bound: set[str]) -> bool:
    if isinstance(function, ast.Attribute) and _names(function) & bound:
        return True
    called = static(scope, function)
    if called is MISSING:
        return False
    return isinstance(called, type) or called in _BUILTINS or _at_build_time(called)
