"""Tools as a request offers them, and which of them the answer may or must call."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from headway.server.api.protocol.base import at_most
from headway.server.api.protocol.parse import shortened
from headway.server.errors import RequestError

MAX_TOOLS = 1024
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_MODES = ("none", "auto", "required")

_FUNCTION_NAME = {"type": "string", "pattern": f"^{_NAME.pattern}$"}
_TOOL = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {
                "name": _FUNCTION_NAME,
                "description": {"type": ["string", "null"]},
                "parameters": {"type": ["object", "null"], "properties": {"type": {"const": "object"}}, "description": "A JSON schema."},
                "strict": {"type": ["boolean", "null"]},
            },
            "required": ["name"],
        },
    },
    "required": ["type", "function"],
}
_NAMED = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {"type": "object", "properties": {"name": _FUNCTION_NAME}, "required": ["name"]},
    },
    "required": ["type", "function"],
}

# Kept as it came: the chat template shows it to the model, in the client's order and with whatever else it says.
Tool = Annotated[dict[str, Any], WithJsonSchema(_TOOL)]
ToolChoiceField = Annotated[
    Any,
    at_most(8),
    WithJsonSchema({"anyOf": [{"enum": list(_MODES)}, _NAMED, {"type": "null"}]}),
    Field(description="Default: auto where there are tools, else none."),
]


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """``name``: the one tool that must be called, where ``mode`` is named."""

    mode: Literal["none", "auto", "required", "named"]
    name: str | None = None

    @property
    def is_forced(self) -> bool:
        """Whether the answer is calls and nothing else."""
        return self.mode in ("required", "named")


def tool_choice_of(tools: Sequence[Mapping[str, Any]], choice: Any) -> ToolChoice:
    """``choice`` is a request's tool_choice, ``tools`` have been checked. Raises RequestError."""
    if choice is None:
        return ToolChoice("auto" if tools else "none")
    mode, name = _mode_of(choice)
    if mode == "none":
        return ToolChoice("none")
    if not tools:
        raise RequestError("tool_choice needs tools: give some, or leave it out.", "tool_choice")
    if mode == "named" and name not in {tool["function"]["name"] for tool in tools}:
        assert name is not None
        raise RequestError(f"tool_choice names {shortened(name)}, which is none of tools.", "tool_choice.function.name")
    return ToolChoice(mode, name)


def check_tools(tools: Sequence[Mapping[str, Any]]) -> None:
    """Raises RequestError."""
    names: dict[str, int] = {}
    for index, tool in enumerate(tools):
        name = _checked_name(tool, f"tools.{index}")
        if (earlier := names.setdefault(name, index)) != index:
            where = f"tools.{index}.function.name"
            raise RequestError(f"{where} is {name!r}, as tools.{earlier} is called already; give each tool a name of its own.", where)


def _mode_of(choice: Any) -> tuple[Literal["none", "auto", "required", "named"], str | None]:
    match choice:
        case "none" | "auto" | "required":
            return choice, None
        case {"type": "function", "function": {"name": str(name)}}:
            return "named", name
        case {"type": "function"}:
            raise RequestError("tool_choice.function.name must be the name of one of tools.", "tool_choice.function.name")
    raise RequestError(
        f'tool_choice must be none, auto, required or {{"type": "function", "function": {{"name": ..}}}}, got {shortened(choice)}.',
        "tool_choice",
    )


def _checked_name(tool: Mapping[str, Any], where: str) -> str:
    """The tool's name, if all of it is right."""
    if tool.get("type") != "function":
        raise RequestError(
            f"{where}.type must be function, got {shortened(tool.get('type'))}; there are no tools of other types.", f"{where}.type"
        )
    function = tool.get("function")
    if not isinstance(function, dict):
        raise RequestError(f"{where}.function must be an object with a name, a description and parameters.", f"{where}.function")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise RequestError(
            f"{where}.function.name must be 1 to 128 letters, digits, underscores and dashes, got {shortened(name)}.",
            f"{where}.function.name",
        )
    for member, kind, called in (("description", str, "a text"), ("strict", bool, "true or false"), ("parameters", dict, "a JSON schema")):
        if function.get(member) is not None and not isinstance(function[member], kind):
            raise RequestError(f"{where}.function.{member} must be {called}.", f"{where}.function.{member}")
    if (function.get("parameters") or {}).get("type", "object") != "object":
        raise RequestError(f"{where}.function.parameters must be a JSON schema of type object.", f"{where}.function.parameters")
    return name
