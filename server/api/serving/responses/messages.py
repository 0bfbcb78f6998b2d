"""Items to the messages of a chat: what the model thought, said and called in one turn becomes one message."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from headway.server.api.serving.responses.items import Item

Message = dict[str, Any]


def messages_of(items: Iterable[Item]) -> list[Message]:
    """``items`` as ``items.normalised`` makes them, and as responses have them in their output."""
    messages: list[Message] = []
    turn: Message | None = None  # the assistant's message that further items belong to
    for item in items:
        match item["type"]:
            case "message" if item["role"] != "assistant":
                turn = None
                messages.append({"role": item["role"], "content": _content(item["content"])})
            case "function_call_output":
                turn = None
                messages.append({"role": "tool", "tool_call_id": item["call_id"], "content": _content(item["output"])})
            case kind:
                if turn is None or not _continues(turn, kind):
                    turn = {"role": "assistant", "content": None}
                    messages.append(turn)
                _extend(turn, item)
    return messages


def _continues(turn: Message, kind: str) -> bool:
    """Whether an item of that kind may follow in the message: they come as reasoning, text, calls."""
    has_calls = "tool_calls" in turn
    return kind == "function_call" or (kind == "message" and turn["content"] is None and not has_calls)


def _extend(turn: Message, item: Item) -> None:
    match item["type"]:
        case "reasoning":
            turn["reasoning"] = "".join(part["text"] for part in item["content"] or item["summary"])
        case "message":
            turn["content"] = _content(item["content"])
        case "function_call":
            function = {"name": item["name"], "arguments": item["arguments"]}
            turn.setdefault("tool_calls", []).append({"id": item["call_id"], "type": "function", "function": function})


def _content(content: str | list[Item]) -> str | list[Item]:
    """Text, or text parts where there are several: how these are joined is the template's affair."""
    if isinstance(content, str):
        return content
    texts = [part["refusal"] if part["type"] == "refusal" else part["text"] for part in content]
    return "".join(texts) if len(texts) < 2 else [{"type": "text", "text": text} for text in texts]
