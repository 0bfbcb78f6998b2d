"""The part of a body that becomes a chat's prompt: messages, tools and what the template is told beside them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import FailFast, Field, WithJsonSchema

from headway.server.api.protocol.base import MAX_KEYS, RequestModel, at_most
from headway.server.api.protocol.parse import shortened
from headway.server.api.protocol.tools import MAX_TOOLS, Tool, ToolChoice, ToolChoiceField, check_tools, tool_choice_of
from headway.server.errors import RequestError

_PART = {"type": "object", "properties": {"type": {"const": "text"}, "text": {"type": "string"}}, "required": ["type", "text"]}
_CALL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "string", "examples": ["{}"]}},
            "required": ["name"],
        },
    },
    "required": ["function"],
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "minLength": 1, "examples": ["system", "developer", "user", "assistant", "tool"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}, {"type": "null"}]},
        "name": {"type": ["string", "null"]},
        "tool_calls": {"type": ["array", "null"], "items": _CALL},
        "tool_call_id": {"type": ["string", "null"], "description": "Of a tool's answer: the call's id."},
        "reasoning": {"type": ["string", "null"], "description": "Of an assistant's message; reasoning_content is its older name."},
    },
    "required": ["role"],
}
# What a message holds beyond this is the chat template's affair.
Message = Annotated[dict[str, Any], WithJsonSchema(_MESSAGE)]
ReasoningEffort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]

_TEXT_MEMBERS = ("name", "tool_call_id", "reasoning", "reasoning_content", "refusal")
_OLD_MEMBERS = {"function_call": "send tool_calls instead", "audio": "this model takes text only"}


class PromptFields(RequestModel):
    """``messages`` is empty only where a body may have something else in its place."""

    messages: Annotated[list[Message], FailFast()]
    tools: Annotated[list[Tool], FailFast(), at_most(MAX_TOOLS)] = Field([], description="An empty list is none.")
    tool_choice: ToolChoiceField = None
    reasoning_effort: ReasoningEffort | None = Field(
        None, description="A variable of the chat template, and enable_thinking with it: false for none, else true."
    )
    documents: Annotated[list[dict[str, Any]], FailFast(), at_most(MAX_KEYS)] = Field(
        [], description="Texts to answer from, for chat templates that know documents."
    )
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    chat_template: str | None = Field(None, description="In the place of the model's; needs --trust-request-chat-template.")
    chat_template_kwargs: Annotated[dict[str, Any], at_most(MAX_KEYS)] = Field({}, description="Further variables of the chat template.")

    @property
    def wanted_tools(self) -> ToolChoice:
        """Which tools the answer may or must call."""
        return tool_choice_of(self.tools, self.tool_choice)

    def check(self) -> None:
        super().check()
        check_tools(self.tools)
        tool_choice_of(self.tools, self.tool_choice)
        if self.continue_final_message and self.add_generation_prompt and "add_generation_prompt" in self.model_fields_set:
            raise RequestError(
                "continue_final_message and add_generation_prompt exclude each other: set one of them to false.", "continue_final_message"
            )
        check_messages(self.messages)


def check_messages(messages: list[dict[str, Any]]) -> None:
    """What every chat template takes for granted. Raises RequestError."""
    for index, message in enumerate(messages):
        _check_message(message, f"messages.{index}")


def _check_message(message: dict[str, Any], where: str) -> None:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise RequestError(f"{where}.role must be a text such as user or assistant.", f"{where}.role")
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise RequestError(f"{where}.content must be a text or a list of parts.", f"{where}.content")
    for member in _TEXT_MEMBERS:
        if message.get(member) is not None and not isinstance(message[member], str):
            raise RequestError(f"{where}.{member} must be a text.", f"{where}.{member}")
    for member, advice in _OLD_MEMBERS.items():
        if message.get(member) is not None:
            raise RequestError(f"{where}.{member} is not supported by this server; {advice}.", f"{where}.{member}")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise RequestError(f"{where}.tool_calls must be a list of objects.", f"{where}.tool_calls")
    for at, call in enumerate(calls or ()):
        _check_call(call, f"{where}.tool_calls.{at}")


def _check_call(call: dict[str, Any], where: str) -> None:
    if call.get("type") not in (None, "function"):
        raise RequestError(f"{where}.type must be function, got {shortened(call['type'])}.", f"{where}.type")
    if call.get("id") is not None and not isinstance(call["id"], str):
        raise RequestError(f"{where}.id must be a text.", f"{where}.id")
    function = call.get("function")
    if not isinstance(function, dict):
        raise RequestError(f"{where}.function must be an object with a name and arguments.", f"{where}.function")
    if not isinstance(function.get("name"), str):
        raise RequestError(f"{where}.function.name must be a text.", f"{where}.function.name")
    if not isinstance(function.get("arguments"), str | dict | None):
        raise RequestError(f"{where}.function.arguments must be a JSON object as a text.", f"{where}.function.arguments")
