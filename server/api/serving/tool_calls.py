"""Calls of tools as OpenAI's objects, whole and in the pieces of a stream."""

from __future__ import annotations

import secrets
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headway.server.text.output import ToolCallPiece

_LETTERS = string.ascii_letters + string.digits


@dataclass(slots=True)
class ToolCall:
    name: str
    arguments: str  # a JSON object's text


def whole_calls(pieces: Sequence[ToolCallPiece]) -> list[ToolCall]:
    """The calls of one answer, from all of its pieces."""
    calls: list[ToolCall] = []
    for piece in pieces:
        if piece.name is not None:
            calls.append(ToolCall(piece.name, ""))
        calls[piece.index].arguments += piece.arguments
    return calls


class CallWriter:
    """``parser``: the model's tool parser, whose family may want ids of its own form. ``num_earlier``: calls in the conversation."""

    def __init__(self, parser: str, num_earlier: int) -> None:
        self._parser = parser
        self._num_earlier = num_earlier

    def whole(self, pieces: Sequence[ToolCallPiece]) -> list[dict[str, Any]]:
        """A message's tool_calls."""
        return [
            {
                "id": self.new_id(index, call.name),
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for index, call in enumerate(whole_calls(pieces))
        ]

    def streamed(self, pieces: Sequence[ToolCallPiece]) -> list[dict[str, Any]]:
        """Entries of delta.tool_calls, each for a chunk of its own: clients put together what two chunks say of a call, not one."""
        entries: list[dict[str, Any]] = []
        for piece in pieces:
            if piece.name is not None:
                function = {"name": piece.name, "arguments": ""}
                new_id = self.new_id(piece.index, piece.name)
                entries.append({"index": piece.index, "id": new_id, "type": "function", "function": function})
            if piece.arguments:
                entries.append({"index": piece.index, "function": {"arguments": piece.arguments}})
        return entries

    def new_id(self, index: int, name: str) -> str:
        """``index``: of the call in its answer, ``name``: of its tool."""
        match self._parser:
            case "mistral":  # its template refuses others
                return "".join(secrets.choice(_LETTERS) for _ in range(9))
            case "kimi_k2":  # it was trained to count
                return f"functions.{name}:{self._num_earlier + index}"
            case _:
                return f"call_{secrets.token_hex(12)}"
