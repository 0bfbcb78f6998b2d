"""The messages of a Messages request as those of a chat: blocks to texts, calls and answers of tools."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headway.server.api.json_text import encode
from headway.server.api.protocol.parse import shortened
from headway.server.errors import RequestError

_ROLES = ("user", "assistant", "system")
# Claude Code begins its system prompt with a block of bookkeeping that differs each time, and would find no prefix in the cache.
_BILLING = "x-anthropic-billing-header:"


class Conversation:
    """``messages`` are a chat's; ``origins`` names, for each of them, the first field that it was made of.

    Neighbours of one role are one turn, as in the API. Thinking that another server has signed or hidden is taken as it can be read.
    """

    def __init__(self, system: str | Sequence[Any] | None, messages: Sequence[Mapping[str, Any]]) -> None:
        """Raises RequestError that names the block at fault."""
        self.messages: list[dict[str, Any]] = []
        self.origins: list[str] = []
        if system is not None:
            self._add_system(system, "system")
        for index, message in enumerate(messages):
            self._add(message, f"messages.{index}")
        if not self.messages or self.messages[-1]["role"] == "system":
            raise RequestError("messages hold no text and no tool_result to answer; send a message of the user.", "messages")
        if self.ends_with_assistant and (self.messages[-1].get("tool_calls") or not self.messages[-1]["content"]):
            where = self.origins[-1]
            raise RequestError(f"{where} is the last message and has no text to continue; send what answers it, a tool_result say.", where)

    @property
    def ends_with_assistant(self) -> bool:
        """The answer then continues that message."""
        return bool(self.messages[-1]["role"] == "assistant")

    def _add(self, message: Mapping[str, Any], where: str) -> None:
        role, content = message.get("role"), message.get("content")
        if role == "system":
            self._add_system(content, f"{where}.content")
        elif role not in _ROLES:
            raise RequestError(f"{where}.role must be user, assistant or system, got {shortened(role)}.", f"{where}.role")
        else:
            for block, at in _blocks(content, f"{where}.content"):
                self._add_block(role, block, at, where)

    def _add_system(self, content: Any, where: str) -> None:
        texts = [_text_of(block, at) for block, at in _blocks(content, where)]
        for text in texts:
            if not text.startswith(_BILLING):
                _append_text(self._turn("system", where), text)

    def _add_block(self, role: str, block: Mapping[str, Any], at: str, where: str) -> None:
        match role, block.get("type"):
            case _, "text":
                _append_text(self._turn(role, where), _text_of(block, at))
            case "user", "tool_result":
                self._add_result(block, at)
            case "assistant", "tool_use":
                self._turn(role, where).setdefault("tool_calls", []).append(_call(block, at))
            case "assistant", "thinking":
                turn = self._turn(role, where)
                turn["reasoning"] = turn.get("reasoning", "") + _member(block, "thinking", str, "a text", at)
            case "assistant", "redacted_thinking":
                pass  # nobody but its author can read it
            case _, "thinking" | "redacted_thinking" | "tool_use" | "tool_result" as kind:
                raise RequestError(f"{at} is a block of type {kind}, which has no place in a message of the role {role}.", at)
            case _, kind:
                raise RequestError(f"{at} is a block of type {shortened(kind)}, which this model does not take; send text.", at)

    def _add_result(self, block: Mapping[str, Any], at: str) -> None:
        texts = [_text_of(part, part_at) for part, part_at in _blocks(block.get("content", []), f"{at}.content")]
        if block.get("is_error") is True:
            texts = ["Error: " + "\n".join(texts)]  # a chat has no other way to say so
        self.origins.append(at)
        message = {"role": "tool", "tool_call_id": _member(block, "tool_use_id", str, "a text", at), "content": "\n".join(texts)}
        self.messages.append(message)

    def _turn(self, role: str, where: str) -> dict[str, Any]:
        """The message to which a block of ``role`` belongs: the last one, or a new one."""
        if not self.messages or self.messages[-1]["role"] != role:
            self.messages.append({"role": role, "content": None})
            self.origins.append(where)
        return self.messages[-1]


def _blocks(content: Any, where: str) -> list[tuple[Mapping[str, Any], str]]:
    """Each with its place. Raises RequestError."""
    if isinstance(content, str):
        return [({"type": "text", "text": content}, where)]
    if not isinstance(content, list):
        raise RequestError(f"{where} must be a text or a list of blocks.", where)
    for index, block in enumerate(content):
        if not isinstance(block, dict):
            raise RequestError(f"{where}.{index} must be a block: an object with a type.", f"{where}.{index}")
    return [(block, f"{where}.{index}") for index, block in enumerate(content)]


def _text_of(block: Mapping[str, Any], at: str) -> str:
    if block.get("type") != "text":
        raise RequestError(f"{at} is a block of type {shortened(block.get('type'))}; only text can stand here.", at)
    text: str = _member(block, "text", str, "a text", at)
    return text


def _call(block: Mapping[str, Any], at: str) -> dict[str, Any]:
    arguments = _member(block, "input", dict, "an object", at)
    function = {"name": _member(block, "name", str, "a text", at), "arguments": encode(arguments).decode()}
    return {"id": _member(block, "id", str, "a text", at), "type": "function", "function": function}


def _member(block: Mapping[str, Any], name: str, kind: type, called: str, at: str) -> Any:
    if not isinstance(block.get(name), kind):
        raise RequestError(f"{at}.{name} must be {called}.", f"{at}.{name}")
    return block[name]


def _append_text(turn: dict[str, Any], text: str) -> None:
    """One text as such, several as parts: how these are joined is the chat template's affair."""
    match turn["content"]:
        case None:
            turn["content"] = text
        case str(first):
            turn["content"] = [{"type": "text", "text": first}, {"type": "text", "text": text}]
        case parts:
            parts.append({"type": "text", "text": text})
