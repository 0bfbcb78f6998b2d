"""The JSON schema of an answer that must be calls of tools; text/tools/constrained.py reads such answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headway.server.api.protocol.tools import ToolChoice

Schema = dict[str, Any]

_NO_PARAMETERS: Schema = {"type": "object", "properties": {}, "additionalProperties": False}
# Below these stand values, not schemas.
_VALUES = frozenset({"const", "enum", "default", "examples"})


def calls_schema(tools: Sequence[Mapping[str, Any]], choice: ToolChoice, *, is_parallel: bool) -> Schema | None:
    """Of the arguments alone where one function is named, else of a list of ``{"name", "parameters"}``; None if calls are no must."""
    match choice.mode:
        case "named":
            return next(_parameters(tool) for tool in tools if tool["function"]["name"] == choice.name)
        case "required":
            calls = [_call(tool, f"#/items/anyOf/{index}/properties/parameters") for index, tool in enumerate(tools)]
            return {"type": "array", "minItems": 1, "items": {"anyOf": calls}, **({} if is_parallel else {"maxItems": 1})}
        case _:
            return None


def _call(tool: Mapping[str, Any], where: str) -> Schema:
    properties = {"name": {"const": tool["function"]["name"]}, "parameters": _moved(_parameters(tool), where)}
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _parameters(tool: Mapping[str, Any]) -> Schema:
    """Any object where ``strict`` is false: the client then wants the schema as a hint only."""
    function = tool["function"]
    if function.get("strict") is False:
        return {"type": "object"}
    parameters: Schema = function.get("parameters") or _NO_PARAMETERS
    return {"type": "object", **parameters}


def _moved(schema: Any, where: str) -> Any:
    """``schema`` with references that hold when it stands at ``where`` in a larger one."""
    if isinstance(schema, list):
        return [_moved(item, where) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {}
    for name, value in schema.items():
        if name == "$ref" and isinstance(value, str) and value.startswith("#"):
            moved[name] = where + value[1:]
        else:
            moved[name] = value if name in _VALUES else _moved(value, where)
    return moved
