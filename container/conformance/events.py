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
    except (ValueError, RecursionError) as error:
        raise Failed(f"an event is no JSON ({error}): {cut(next(iter(events), ''), 80)!r}") from error


def text_of(piece: Any) -> str:
    """What a chunk of a chat or a completion, or a whole answer, adds to the text."""
    choice = first_choice(piece)
    message = choice.get("delta") or choice.get("message")
    said = [message.get(name) for name in ("content", "reasoning_content", "reasoning")] if isinstance(message, dict) else []
    texts = (choice.get("text"), *said)
    return "".join(text for text in texts if isinstance(text, str))


def is_end(piece: Any) -> bool:
    """A chunk that says why the answer ends, or that it failed."""
    return (isinstance(piece, dict) and "error" in piece) or bool(first_choice(piece).get("finish_reason"))


def first_choice(piece: Any) -> dict[str, Any]:
    """Empty where an answer, or a chunk of one, has none: a server may send any JSON."""
    choices = piece.get("choices") if isinstance(piece, dict) else None
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
