"""A response's request as the turn of a chat that it asks for, and the chat's complaints in the words of the response."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from headway.server.api.protocol.base import GenerationFields
from headway.server.api.protocol.chat import ChatCompletionRequest
from headway.server.api.protocol.parse import parse_request, shortened
from headway.server.api.protocol.responses import ResponsesRequest
from headway.server.api.serving.field_names import FieldNames, in_words_of
from headway.server.api.serving.responses.messages import Message
from headway.server.errors import RequestError

# What a chat's field is called in a response.
_NAMES = FieldNames(
    (r"response_format(\.json_schema)?\b", "text.format"),
    (r"reasoning_effort\b", "reasoning.effort"),
    (r"max_completion_tokens\b", "max_output_tokens"),
    (r"tool_choice\.function\b", "tool_choice"),
    (r"tools\.(\d+)\.function\b", r"tools.\1"),
    (r"messages\b(?s:.*)", "input"),  # a message is made of several items: which one is meant can't be said
)


def chat_request(request: ResponsesRequest, messages: Sequence[Message]) -> ChatCompletionRequest:
    """The turn behind ``messages``; always a stream, since a response is told and kept by its events. Raises RequestError."""
    given = request.model_fields_set & GenerationFields.model_fields.keys()
    instructions = [{"role": "system", "content": request.instructions}] if request.instructions is not None else []
    tools, choice = _tools(request)
    fields = {
        **{name: getattr(request, name) for name in given},
        "messages": [*instructions, *messages],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": request.max_output_tokens,
        "logprobs": request.wants_logprobs,
        "top_logprobs": request.top_logprobs,
        "tools": tools,
        "tool_choice": choice,
        "parallel_tool_calls": request.parallel_tool_calls,
        "response_format": _response_format(request),
        "reasoning_effort": request.reasoning.effort,
        "chat_template_kwargs": request.chat_template_kwargs,
    }
    with in_words_of_responses():
        return parse_request(ChatCompletionRequest, fields)


def in_words_of_responses() -> AbstractContextManager[None]:
    """What is wrong with the chat is wrong with the field that it came from."""
    return in_words_of(_NAMES)


def _tools(request: ResponsesRequest) -> tuple[list[dict[str, Any]], Any]:
    """Tools and tool_choice in the chat's form."""
    tools = [_tool(tool, f"tools.{at}") for at, tool in enumerate(request.tools)]
    match request.tool_choice:
        case {"type": "function", "name": str(name)}:
            return tools, {"type": "function", "function": {"name": name}}
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(allowed)}:
            names = {_allowed_name(tool, f"tool_choice.tools.{at}") for at, tool in enumerate(allowed)}
            return [tool for tool in tools if tool["function"].get("name") in names], mode
        case None | "none" | "auto" | "required" as mode:
            return tools, mode
    raise RequestError(
        'tool_choice must be none, auto, required, {"type": "function", "name": ..} or '
        f'{{"type": "allowed_tools", "mode": .., "tools": [..]}}, got {shortened(request.tool_choice)}.',
        "tool_choice",
    )


def _tool(tool: Mapping[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise RequestError(
            f"{where} has the type {shortened(tool.get('type'))}; this server has tools of the type function only, which the client runs.",
            f"{where}.type",
        )
    return {"type": "function", "function": {name: value for name, value in tool.items() if name != "type" and value is not None}}


def _allowed_name(tool: Any, where: str) -> str:
    match tool:
        case {"type": "function", "name": str(name)}:
            return name
    raise RequestError(f'{where} must be {{"type": "function", "name": ..}}, got {shortened(tool)}.', where)


def _response_format(request: ResponsesRequest) -> dict[str, Any] | None:
    asked = request.text.format
    if asked is None or asked.type == "text":
        return None
    if asked.type == "json_object":
        return {"type": "json_object"}
    members = {"name": asked.name, "description": asked.description, "schema": asked.schema_, "strict": asked.strict}
    return {"type": "json_schema", "json_schema": {name: value for name, value in members.items() if value is not None}}
