"""Server-sent events, read from the bytes of an answer."""

from __future__ import annotations

import json
from typing import Any

from headway.container.conformance.outcome import Failed
from headway.server.words import cut

DONE = "[DONE]"


def events_of(content: bytes) -> list[str]:
    """The data of each event. Raises Failed where one by itself is no UTF-8."""
    found = []
    for block in content.replace(b"\r\n", b"\n").split(b"\n\n"):
        lines = [line.removeprefix(b"data:").lstrip(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
        if not lines:
            continue
        try:
            found.append(b"\n".join(lines).decode())
        except UnicodeDecodeError as error:
            raise Failed(f"an event by itself is no UTF-8: {error}") from error
    return found


def pieces_of(events: list[str]) -> list[Any]:
    """The JSON of each event but [DONE]. Raises Failed."""
    try:
        return [json.loads(event) for event in events if event != DONE]
    except ValueError as error:
        raise Failed(f"an event is no JSON ({error}): {cut(next(iter(events), ''), 80)!r}") from error


def text_of(piece: Any) -> str:
    """What a chunk of a chat or a completion, or a whole answer, adds to the text."""
    choices = piece.get("choices") if isinstance(piece, dict) else None
    if not choices or not isinstance(choices[0], dict):
        return ""
    message = choices[0].get("delta") or choices[0].get("message") or {}
    texts = (choices[0].get("text"), message.get("content"), message.get("reasoning_content"), message.get("reasoning"))
    return "".join(text for text in texts if isinstance(text, str))


def is_end(piece: Any) -> bool:
    """A chunk that says why the answer ends, or that it failed."""
    if not isinstance(piece, dict):
        return False
    choices = piece.get("choices") or [{}]
    return "error" in piece or bool(isinstance(choices[0], dict) and choices[0].get("finish_reason"))
