"""A Messages request in chat's terms, and chat's errors in those of Messages."""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from headway.server.api.protocol.anthropic import CountTokensRequest, MessagesRequest
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.protocol.parse import parse_request
from headway.server.api.serving.anthropic.conversation import Conversation
from headway.server.api.serving.field_names import FieldNames, in_words_of

_SAME = ("model", "temperature", "top_p", "top_k", "seed", "priority", "cache_salt", "timeout", "stream", "metadata")
_TOOL_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
# What a chat's field is called in a Messages request.
_NAMES = FieldNames(
    (r"tools\.(\d+)\.function\.parameters", r"tools.\1.input_schema"),
    (r"tools\.(\d+)\.function\.", r"tools.\1."),
    (r"tool_choice\.function\.name", "tool_choice.name"),
    (r"parallel_tool_calls", "tool_choice.disable_parallel_tool_use"),
    (r"response_format(?s:.*)", "output_config.format"),
    (r"reasoning_effort", "output_config.effort"),
    (r"thinking_token_budget", "thinking.budget_tokens"),
    (r"stop$", "stop_sequences"),
    (r"max_completion_tokens", "max_tokens"),
    (r"continue_final_message", "messages"),
)
_SHOWN = {"continue_final_message": "the assistant's message at the end"}
_MESSAGE = re.compile(r"^messages\.(\d+)")


class Translation:
    """``chat`` is the request in chat's terms. ``in_own_words`` has what is raised inside name the fields of the Messages request."""

    def __init__(self, request: CountTokensRequest, *, limits_thinking: bool) -> None:
        """Work for as long as the body is. ``limits_thinking``: whether a budget for it can be kept. Raises RequestError."""
        self._limits_thinking = limits_thinking
        self._conversation = Conversation(request.system, request.messages)
        with self.in_own_words():
            self.chat = self._as_chat(request)

    def _as_chat(self, request: CountTokensRequest) -> ChatCompletionRequest:
        conversation = self._conversation
        fields: dict[str, Any] = {
            "messages": conversation.messages,
            "tools": [_tool(tool.model_dump()) for tool in request.tools],
            **_tool_choice(request),
            **_thinking(request),
        }
        if request.thinking is not None and request.thinking.budget_tokens is not None and self._limits_thinking:
            fields["thinking_token_budget"] = request.thinking.budget_tokens
        if (asked := request.asked_format) is not None:
            schema = {"name": "answer", "schema": asked.json_schema, "strict": True}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        if conversation.ends_with_assistant:
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        fields |= {name: value for name in _SAME if (value := getattr(request, name, None)) is not None}
        if isinstance(request, MessagesRequest):
            fields |= {"max_completion_tokens": request.max_tokens, "stop": request.stop_sequences}
            if request.stream:
                # Each event that tells usage is one of ours, so it is wanted at every step.
                fields["stream_options"] = {"include_usage": True, "continuous_usage_stats": True}
        return parse_request(ChatCompletionRequest, fields)

    def in_own_words(self) -> AbstractContextManager[None]:
        return in_words_of(self._name_of, _SHOWN)

    def _name_of(self, param: str) -> str:
        found = _MESSAGE.match(param)
        return _NAMES(param) if found is None else self._conversation.origins[int(found[1])]


def _tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": tool["name"], "description": tool["description"], "parameters": tool["input_schema"], "strict": tool["strict"]}
    return {"type": "function", "function": {name: value for name, value in function.items() if value is not None}}


def _tool_choice(request: CountTokensRequest) -> dict[str, Any]:
    choice = request.tool_choice
    if choice is None:
        return {}
    named = {"type": "function", "function": {"name": choice.name}}
    return {"tool_choice": _TOOL_CHOICES.get(choice.type, named), "parallel_tool_calls": not choice.disable_parallel_tool_use}


def _thinking(request: CountTokensRequest) -> dict[str, Any]:
    """Chat templates know the switch by one of two names; a request's own variables go before it."""
    thinking, variables = request.thinking, {}
    fields: dict[str, Any] = {}
    if thinking is not None and thinking.type != "adaptive":
        is_on = thinking.type == "enabled"
        variables = {"enable_thinking": is_on, "thinking": is_on}
        fields["include_reasoning"] = is_on
    if request.output_config is not None and request.output_config.effort is not None:
        fields["reasoning_effort"] = request.output_config.effort
    return {**fields, "chat_template_kwargs": {**variables, **request.chat_template_kwargs}}
