"""Answers of models with calls of tools, as the families write them, and what they say."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from headway.server.text.output import OutputParser, Parsed


@dataclass
class Said:
    """All that a parser told of one answer."""

    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)  # name, arguments

    def add(self, parsed: Parsed) -> None:
        self.content += parsed.content
        for piece in parsed.tool_calls:
            if piece.name is not None:
                assert piece.index == len(self.calls), "calls are numbered from 0"
                self.calls.append((piece.name, piece.arguments))
            else:
                assert piece.index == len(self.calls) - 1, "pieces belong to the last call"
                name, arguments = self.calls[-1]
                self.calls[-1] = name, arguments + piece.arguments


def said(parser: OutputParser, pieces: Iterable[str]) -> Said:
    result = Said()
    for piece in pieces:
        result.add(parser.push(piece, []))
    result.add(parser.finish())
    return result


@dataclass(frozen=True)
class Recorded:
    """``parser``: a name of the registry. ``text`` -> ``content`` and ``calls``, (name, arguments) each."""

    parser: str
    label: str
    text: str
    content: str = ""
    calls: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.parser}-{self.label}"


def function(name: str, **properties: object) -> dict[str, object]:
    """A tool as a request has it."""
    return {
        "type": "function",
        "function": {"name": name, "description": name, "parameters": {"type": "object", "properties": properties}},
    }


TOOLS = [
    function("get_weather", city={"type": "string"}, days={"type": "integer"}, unit={"type": "string", "enum": ["C", "F"]}),
    function("now"),
    function(
        "book",
        seats={"type": "array", "items": {"type": "string"}},
        guest={"type": "object"},
        price={"type": "number"},
        paid={"type": "boolean"},
        note={"anyOf": [{"type": "string"}, {"type": "null"}]},
    ),
]
