"""Python source to values that JSON has, by Python's own parser; nothing is run."""

from __future__ import annotations

import ast
import warnings
from typing import Any

# Models that write Python know JSON's words too.
_WORDS = {"true": True, "false": False, "null": None}


def python_value(source: str) -> Any:
    """A literal's value. Raises ValueError for anything else."""
    return _value(_parsed(source))


def python_call(source: str) -> dict[str, Any]:
    """The arguments of one call with keyword arguments. Raises ValueError for anything else."""
    call = _parsed(source)
    if not isinstance(call, ast.Call) or call.args:
        raise ValueError("no call with keywords only")
    arguments = {}
    for keyword in call.keywords:
        if keyword.arg is None:
            raise ValueError("** is no argument")
        arguments[keyword.arg] = _value(keyword.value)
    return arguments


def _parsed(source: str) -> ast.expr:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            return ast.parse(source, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError) as error:  # the latter two: too deep
        raise ValueError("no Python") from error


def _value(node: ast.expr | None) -> Any:
    match node:
        case ast.Constant(value=str() | bool() | int() | float() | None as value):
            return value
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return -number
        case ast.List() | ast.Tuple() | ast.Set():
            return [_value(item) for item in node.elts]
        case ast.Dict():
            return {_key(key): _value(item) for key, item in zip(node.keys, node.values, strict=True)}
    raise ValueError("no literal")


def _key(node: ast.expr | None) -> str:
    key = _value(node)
    if isinstance(key, str):
        return key
    if isinstance(key, int | float) and not isinstance(key, bool):
        return str(key)
    raise ValueError("no key of an object")
