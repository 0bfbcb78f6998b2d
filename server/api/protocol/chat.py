"""The body of POST /v1/chat/completions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import FailFast, Field, WithJsonSchema

from headway.server.api.protocol.base import MAX_KEYS, GenerationFields, at_most, shown_with
from headway.server.errors import RequestError

_PART = {"type": "object", "properties": {"type": {"const": "text"}, "text": {"type": "string"}}, "required": ["type", "text"]}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "minLength": 1, "examples": ["system", "user", "assistant"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}, {"type": "null"}]},
        "tool_calls": {"type": "array", "items": {"type": "object"}},
    },
    "required": ["role"],
}
# What a message holds beyond this is the chat template's affair.
Message = Annotated[dict[str, Any], WithJsonSchema(_MESSAGE)]


class ChatCompletionRequest(GenerationFields):
    OPERATION = "chat"
    model_config = shown_with({"messages": [{"role": "user", "content": "What is the capital of France?"}], "max_tokens": 32})

    messages: Annotated[list[Message], Field(min_length=1), FailFast()]
    max_tokens: int | None = Field(None, ge=1, description="Older name of max_completion_tokens.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Default: what remains of the context.")
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=-1, description="-1: the whole vocabulary.")
    tools: Annotated[list[dict[str, Any]], FailFast()] = Field(
        [], description="Shown to the model; needs tool_choice none, since calls are not parsed."
    )
    tool_choice: Literal["none"] | None = None
    parallel_tool_calls: bool | None = Field(None, description="Without effect while calls are not parsed.")
    include_reasoning: bool | None = Field(None, description="Without effect: reasoning is part of the content.")
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = Field(False, description="Chat templates write the special tokens themselves.")
    chat_template: str | None = Field(None, description="In the place of the model's; needs --trust-request-chat-template.")
    chat_template_kwargs: Annotated[dict[str, Any], at_most(MAX_KEYS)] = Field({}, description="Further variables of the chat template.")

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = GenerationFields.REFUSED | {
        "functions": (),
        "function_call": ("none",),
        "modalities": (["text"],),
        "audio": (),
        "prediction": (),
        "web_search_options": (),
        "verbosity": (),
        "reasoning_effort": (),
        "documents": (),
        "best_of": (1,),
    }

    @property
    def wanted_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs or self.logprob_token_ids else None

    @property
    def asked_max_tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_completion_tokens is not None else self.max_tokens

    def check(self) -> None:
        super().check()
        if self.top_logprobs and not self.logprobs:
            raise RequestError("top_logprobs needs logprobs to be true.", "top_logprobs")
        if self.tools and self.tool_choice != "none":
            raise RequestError(
                "tools need tool_choice none on this server, which does not parse tool calls; the model then sees the tools only.", "tools"
            )
        if self.continue_final_message and self.add_generation_prompt and "add_generation_prompt" in self.model_fields_set:
            raise RequestError(
                "continue_final_message and add_generation_prompt exclude each other: set one of them to false.", "continue_final_message"
            )
        check_messages(self.messages)


def check_messages(messages: list[dict[str, Any]]) -> None:
    """What every chat template takes for granted. Raises RequestError."""
    for index, message in enumerate(messages):
        _check_message(index, message)


def _check_message(index: int, message: dict[str, Any]) -> None:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise RequestError(f"messages.{index}.role must be a text such as user or assistant.", f"messages.{index}.role")
    content = message.get("content")
    if content is not None and not isinstance(content, str | list):
        raise RequestError(f"messages.{index}.content must be a text or a list of parts.", f"messages.{index}.content")
    calls = message.get("tool_calls")
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        raise RequestError(f"messages.{index}.tool_calls must be a list of objects.", f"messages.{index}.tool_calls")
