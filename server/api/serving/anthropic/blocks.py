"""The content of a Messages answer: blocks of thinking, text and calls, whole or as the events of a stream."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from pydantic_core import from_json

from headway.server.api.json_text import encode
from headway.server.api.serving.tool_calls import whole_calls
from headway.server.text.output import ToolCallPiece

# Nothing is signed here, but clients drop thinking whose signature is empty instead of sending it back.
_SIGNATURE: Final = "unsigned"
NewId = Callable[[int, str], str]  # of a call: see CallWriter.new_id
_THINKING_START = b'{"type":"thinking","thinking":"","signature":""}'
_TEXT_START = b'{"type":"text","text":""}'


class BlockStream:
    """Writes the blocks of one answer as events; one is open at a time, and what is new of another one closes it.

    Text begins a block only with something to see: whitespace between two calls is none.
    """

    def __init__(self, new_id: NewId, *, shows_thinking: bool) -> None:
        self._new_id = new_id
        self._shows_thinking = shows_thinking
        self._index = -1
        self._open: str | None = None  # thinking, text, or tool_use and the call's index
        self._blanks = ""
        self._has_called = False

    @property
    def has_called(self) -> bool:
        return self._has_called

    def feed(self, reasoning: str, text: str, calls: Sequence[ToolCallPiece]) -> Iterator[bytes]:
        """What is new, of which it is only known that the pieces of a call follow each other."""
        going_on = list(itertools.takewhile(lambda piece: piece.name is None, calls))
        for piece in going_on:  # of the call whose block is open, before others close it
            yield self._delta(b"input_json_delta", b"partial_json", piece.arguments)
        if reasoning:
            yield from self._thinking(reasoning)
        if text:
            yield from self._text(text)
        for piece in calls[len(going_on) :]:
            yield from self._call(piece)

    def _thinking(self, text: str) -> Iterator[bytes]:
        yield from self._enter("thinking", _THINKING_START)
        if self._shows_thinking:
            yield self._delta(b"thinking_delta", b"thinking", text)

    def _text(self, text: str) -> Iterator[bytes]:
        if self._open != "text":
            text = self._blanks + text
            self._blanks = "" if text.strip() else text
            if self._blanks:
                return
            yield from self._enter("text", _TEXT_START)
        yield self._delta(b"text_delta", b"text", text)

    def _call(self, piece: ToolCallPiece) -> Iterator[bytes]:
        self._has_called = True
        self._blanks = ""
        if piece.name is not None:
            start = encode(_call(self._new_id(piece.index, piece.name), piece.name, {}))
            yield from self._enter(f"tool_use {piece.index}", start)
        if piece.arguments:
            yield self._delta(b"input_json_delta", b"partial_json", piece.arguments)

    def close(self) -> Iterator[bytes]:
        """Ends the open block, if there is one."""
        if self._open == "thinking":
            yield self._delta(b"signature_delta", b"signature", _SIGNATURE)
        if self._open is not None:
            yield b'{"type":"content_block_stop","index":%d}' % self._index
        self._open = None

    def _enter(self, block: str, start: bytes) -> Iterator[bytes]:
        if self._open != block:
            yield from self.close()
            self._open = block
            self._index += 1
            yield b'{"type":"content_block_start","index":%d,"content_block":%b}' % (self._index, start)

    def _delta(self, kind: bytes, member: bytes, text: str) -> bytes:
        return b'{"type":"content_block_delta","index":%d,"delta":{"type":"%b","%b":%b}}' % (self._index, kind, member, encode(text))


def whole_blocks(reasoning: str, text: str, calls: Sequence[ToolCallPiece], new_id: NewId, *, shows_thinking: bool) -> list[dict[str, Any]]:
    """What a BlockStream tells, put together."""
    blocks: list[dict[str, Any]] = []
    if reasoning:
        blocks.append({"type": "thinking", "thinking": reasoning if shows_thinking else "", "signature": _SIGNATURE})
    if text.strip():
        blocks.append({"type": "text", "text": text})
    called = enumerate(whole_calls(calls))
    return blocks + [_call(new_id(index, call.name), call.name, _parsed(call.arguments)) for index, call in called]


def _call(call_id: str, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def _parsed(arguments: str) -> dict[str, Any]:
    """Of arguments that max_tokens has cut, what is there: as clients read the same of a stream."""
    try:
        value = from_json(arguments or "{}", allow_partial=True)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
