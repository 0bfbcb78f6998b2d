"""Arguments that models write as plain text, to JSON by the types in the tools' schemas."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic_core import from_json

from headway.server.text.tools.json_text import json_text
from headway.server.text.tools.parser import Tools, Writer
from headway.server.text.tools.python_values import python_value
from headway.server.text.tools.reader import Marks, Reader, Steps

# Schemas come from clients: of one that nests alternatives without end, this many are looked at.
_MAX_ALTERNATIVES = 64


class TypedCall:
    """One call, told argument by argument; a string goes out as it comes, any other value once it is whole.

    A call that breaks off is left without its closing brace, so that nobody takes it for a whole one.
    """

    def __init__(self, reader: Reader, writer: Writer, tools: Tools, name: str) -> None:
        self._reader = reader
        self._writer = writer
        self._properties = _properties(tools, name)
        self._num_arguments = 0
        writer.begin_call(name)
        writer.add_arguments("{")

    def read_argument(self, key: str, ends: Marks, *, in_lines: bool) -> Steps[None]:
        """The value of ``key``, up to one of ``ends``, which is not taken. ``in_lines``: a line break on both sides is not part of it."""
        types = _types(self._properties.get(key))
        if in_lines:
            yield from self._reader.skips("\n")
        if types == {"string"}:
            self._add_key(key)
            string = _String(self._writer, in_lines=in_lines)
            if (yield from self._reader.read_until(ends, string.add)) is not None:
                string.end()
            return
        text: list[str] = []
        if (yield from self._reader.read_until(ends, text.append)) is not None:
            self._add_key(key)
            value = "".join(text)
            self._writer.add_arguments(typed_json(value.removesuffix("\n") if in_lines else value, types))

    def end(self) -> None:
        self._writer.add_arguments("}")

    def _add_key(self, key: str) -> None:
        self._writer.add_arguments((", " if self._num_arguments else "") + json_text(key) + ": ")
        self._num_arguments += 1


class _String:
    """A string on its way out. ``in_lines``: a line break at its end is none of it."""

    def __init__(self, writer: Writer, *, in_lines: bool) -> None:
        self._writer = writer
        self._in_lines = in_lines
        self._held = ""
        writer.add_arguments('"')

    def add(self, text: str) -> None:
        text = self._held + text
        self._held = "\n" if self._in_lines and text.endswith("\n") else ""
        self._writer.add_arguments(json.dumps(text.removesuffix(self._held), ensure_ascii=False)[1:-1])

    def end(self) -> None:
        self._writer.add_arguments('"')


def typed_json(text: str, types: set[str]) -> str:
    """A value's text as JSON of one of ``types`` (empty: any), or as a string where it is nothing else."""
    bare = text.strip()
    try:
        if _fits(from_json(bare, allow_inf_nan=False), types):
            return bare
    except ValueError:
        pass
    try:
        if bare and _fits(value := python_value(bare), types):
            return json_text(value)
    except ValueError:
        pass
    return json_text(text)


def _fits(value: Any, types: set[str]) -> bool:
    match value:
        case None:
            return "null" in types or "string" not in types
        case str():
            return False
        case bool():
            kinds = {"boolean"}
        case int():
            kinds = {"integer", "number"}
        case float():
            kinds = {"integer", "number"} if value.is_integer() else {"number"}
        case dict():
            kinds = {"object"}
        case _:
            kinds = {"array"}
    return not types or bool(kinds & types)


def _properties(tools: Tools, name: str) -> Mapping[str, Any]:
    """The schemas of a function's parameters; empty where it was not offered, or says nothing of them."""
    for tool in tools:
        function = tool.get("function")
        if isinstance(function, Mapping) and function.get("name") == name:
            parameters = function.get("parameters")
            properties = parameters.get("properties") if isinstance(parameters, Mapping) else None
            return properties if isinstance(properties, Mapping) else {}
    return {}


def _types(schema: Any) -> set[str]:
    """The types that a value may have; empty where the schema does not say all of them."""
    types: set[str] = set()
    schemas = [schema]
    for one in schemas:  # grows meanwhile
        if not isinstance(one, Mapping):
            return set()
        named = one.get("type")
        alternatives = one.get("anyOf", one.get("oneOf"))
        if isinstance(named, str):
            types.add(named)
        elif isinstance(named, list):
            types |= {item for item in named if isinstance(item, str)}
        elif isinstance(alternatives, list) and len(schemas) + len(alternatives) <= _MAX_ALTERNATIVES:
            schemas += alternatives
        elif isinstance(values := one.get("enum"), list) and all(isinstance(value, str) for value in values):
            types.add("string")
        else:
            return set()
    return types
