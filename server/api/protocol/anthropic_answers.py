"""What answers of Anthropic's routes hold, for the documentation; see answers.py."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from headway.server.api.protocol.answers import ErrorDetail
from headway.server.api.protocol.documented import Documented


class AnthropicErrorAnswer(Documented):
    type: Literal["error"]
    error: ErrorDetail
    request_id: str


class TextBlock(Documented):
    type: Literal["text"]
    text: str


class ThinkingBlock(Documented):
    type: Literal["thinking"]
    thinking: str = Field(description="Empty with display omitted.")
    signature: str


class ToolUseBlock(Documented):
    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, Any]


class OutputTokensDetails(Documented):
    thinking_tokens: int


class MessageUsage(Documented):
    input_tokens: int = Field(description="Without those that came from the cache.")
    cache_read_input_tokens: int = Field(description="Prompt tokens that came from the prefix cache.")
    cache_creation_input_tokens: int
    output_tokens: int
    output_tokens_details: OutputTokensDetails | None = Field(None, description="Where the model's reasoning is told apart.")


class MessageAnswer(Documented):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[ThinkingBlock | TextBlock | ToolUseBlock]
    stop_reason: Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
    stop_sequence: str | None
    usage: MessageUsage
    metrics: dict[str, float | None] | None = Field(None, description="With --enable-per-request-metrics.")


class InputTokens(Documented):
    input_tokens: int
