"""How Messages answers are written: message objects, and their events."""

from __future__ import annotations

from typing import Any

from headway.server.api.json_text import encode
from headway.server.api.protocol.anthropic import MessagesRequest
from headway.server.api.serving.anthropic.blocks import BlockStream, whole_blocks
from headway.server.api.serving.choices import ChoiceDelta
from headway.server.api.serving.generate import Usage
from headway.server.api.serving.turn import Turn


class MessageForm:
    """See AnswerFormat: of one choice, and with usage at every step of a stream."""

    def __init__(self, turn: Turn, request: MessagesRequest) -> None:
        self._head = {"id": turn.public_id, "type": "message", "role": "assistant", "model": turn.name}
        thinking = request.thinking
        self._shows_thinking = thinking is None or thinking.display != "omitted"
        self._stop_sequences = frozenset(request.stop_sequences)
        self._new_id = turn.call_writer().new_id
        self._blocks = BlockStream(self._new_id, shows_thinking=self._shows_thinking)
        self._has_begun = False

    def chunks(self, delta: ChoiceDelta, usage: Usage | None) -> list[bytes]:
        assert usage is not None, "asked for by the translation"
        events: list[bytes] = []
        if not self._has_begun:
            self._has_begun = True
            events.append(self._start(usage))
        events += self._blocks.feed(delta.reasoning, delta.text, delta.tool_calls)
        if delta.finish_reason is not None:
            events += self._blocks.close()
            end = self._end(delta, self._blocks.has_called)
            events.append(encode({"type": "message_delta", "delta": end, "usage": _usage(usage)}))
        return events

    def usage_chunk(self, usage: Usage, metrics: dict[str, Any] | None) -> bytes:
        """The end: message_delta has told the usage."""
        return encode({"type": "message_stop"} if metrics is None else {"type": "message_stop", "metrics": metrics})

    def body(self, choices: list[ChoiceDelta], usage: Usage) -> dict[str, Any]:
        (choice,) = choices
        content = whole_blocks(choice.reasoning, choice.text, choice.tool_calls, self._new_id, shows_thinking=self._shows_thinking)
        return {**self._head, "content": content, **self._end(choice, bool(choice.tool_calls)), "usage": _usage(usage)}

    def _start(self, usage: Usage) -> bytes:
        message: dict[str, Any] = {**self._head, "content": [], "stop_reason": None, "stop_sequence": None, "usage": _usage(usage)}
        return encode({"type": "message_start", "message": message})

    def _end(self, delta: ChoiceDelta, has_called: bool) -> dict[str, str | None]:
        if isinstance(delta.stop_reason, str) and delta.stop_reason in self._stop_sequences:
            return {"stop_reason": "stop_sequence", "stop_sequence": delta.stop_reason}
        if delta.finish_reason == "length":
            return {"stop_reason": "max_tokens", "stop_sequence": None}
        return {"stop_reason": "tool_use" if has_called else "end_turn", "stop_sequence": None}


def _usage(usage: Usage) -> dict[str, Any]:
    """Here what came from the cache is not part of input_tokens."""
    cached = usage.cached_tokens or 0
    told: dict[str, Any] = {
        "input_tokens": usage.prompt_tokens - cached,
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": 0,
        "output_tokens": usage.completion_tokens,
    }
    if usage.reasoning_tokens is not None:
        told["output_tokens_details"] = {"thinking_tokens": usage.reasoning_tokens}
    return told
