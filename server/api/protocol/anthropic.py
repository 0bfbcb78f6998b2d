"""The bodies of POST /v1/messages and /v1/messages/count_tokens. What messages hold is read by serving/anthropic/translation.py."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, StringConstraints, WithJsonSchema
from pydantic_core import PydanticCustomError

from headway.server.api.protocol.base import MAX_KEYS, MAX_STOP_LENGTH, MAX_STOP_STRINGS, CacheSalt, RequestModel, at_most, shown_with
from headway.server.api.protocol.tools import MAX_TOOLS
from headway.server.errors import RequestError

_BLOCK = {
    "type": "object",
    "properties": {"type": {"enum": ["text", "thinking", "redacted_thinking", "tool_use", "tool_result"]}},
    "required": ["type"],
}
_TEXT_BLOCK = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"enum": ["user", "assistant", "system"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _BLOCK}]},
    },
    "required": ["role", "content"],
}
_SYSTEM = {"anyOf": [{"type": "string"}, {"type": "array", "items": _TEXT_BLOCK}, {"type": "null"}]}
# Reading them is translating them, which is done once.
Message = Annotated[dict[str, Any], WithJsonSchema(_MESSAGE)]
System = Annotated[str | list[Any] | None, WithJsonSchema(_SYSTEM)]
CacheControl = Annotated[dict[str, Any], at_most(MAX_KEYS), Field(description="Accepted; prefixes are cached in any case.")]


def _custom(kind: Any) -> Any:
    if kind not in ("custom", None):
        raise PydanticCustomError("server_tool", "Input should be custom, since tools that the provider runs or defines are not offered")
    return kind


def _keeps_all(edit: Any) -> Any:
    if edit != {"type": "clear_thinking_20251015", "keep": "all"}:
        raise PydanticCustomError(
            "context_edit", "Input should be clear_thinking_20251015 with keep all, since this server edits no conversation"
        )
    return edit


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Tool(_Part):
    type: Annotated[Literal["custom"] | None, BeforeValidator(_custom)] = None
    name: str
    description: str | None = None
    input_schema: dict[str, Any] = Field(description="A JSON schema of type object.")
    strict: bool | None = None
    cache_control: CacheControl | None = None
    eager_input_streaming: bool | None = Field(None, description="Without effect: arguments are always streamed as they come.")
    defer_loading: Literal[False] = False
    allowed_callers: list[Literal["direct"]] = []
    input_examples: list[Any] = Field([], max_length=0, description="Put them into the description.")


class ToolChoice(_Part):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = Field(None, description="With type tool: the one that must be called.")
    disable_parallel_tool_use: bool = False


class Thinking(_Part):
    """``type`` enabled or disabled is a variable of the chat template; adaptive leaves it at the template's default."""

    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = Field(None, ge=1024, description="Most tokens of thinking, where the model marks it by tokens.")
    display: Literal["summarized", "omitted"] | None = Field(None, description="summarized: shown in full, as by default.")


class JsonFormat(_Part):
    type: Literal["json_schema"]
    json_schema: dict[str, Any] = Field(alias="schema")


class OutputConfig(_Part):
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    format: JsonFormat | None = None


class ContextManagement(_Part):
    edits: list[Annotated[dict[str, Any], BeforeValidator(_keeps_all)]] = Field([], max_length=MAX_KEYS)


class CountTokensRequest(RequestModel):
    """What becomes the prompt."""

    model_config = shown_with({"messages": [{"role": "user", "content": "What is the capital of England?"}]})

    model: str | None = Field(None, description="A served name; missing or empty: the model that is served.")
    messages: Annotated[list[Message], Field(min_length=1), FailFast()]
    system: System = None
    tools: Annotated[list[Tool], FailFast(), at_most(MAX_TOOLS)] = Field([])
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    output_format: JsonFormat | None = Field(None, description="Older name of output_config.format.")
    context_management: ContextManagement | None = Field(None, description="Only what leaves the conversation as it is.")
    chat_template_kwargs: Annotated[dict[str, Any], at_most(MAX_KEYS)] = Field({}, description="Further variables of the chat template.")

    # Bookkeeping: it changes no answer.
    cache_control: CacheControl | None = None
    betas: Annotated[list[str], at_most(MAX_KEYS)] = Field([])
    anthropic_beta: Annotated[list[str], at_most(MAX_KEYS)] = Field([])
    anthropic_version: str | None = None

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "container": (),
        "mcp_servers": (),
        "speed": ("standard",),
        "inference_geo": (),
        "diagnostics": (),
        "compaction": (),
        "fallbacks": (),
        "thread": (),
    }

    @property
    def asked_format(self) -> JsonFormat | None:
        return (self.output_config and self.output_config.format) or self.output_format

    def check(self) -> None:
        super().check()
        choice = self.tool_choice
        if choice is not None and (choice.type == "tool") != (choice.name is not None):
            raise RequestError("tool_choice.name is the tool that type tool asks for: send both, or neither.", "tool_choice.name")
        if choice is not None and choice.type != "none" and not self.tools:
            raise RequestError("tool_choice needs tools: give some, or leave it out.", "tool_choice")
        if self.output_format is not None and self.output_config is not None and self.output_config.format is not None:
            raise RequestError("output_format is the older name of output_config.format: send one of them.", "output_format")


class MessagesRequest(CountTokensRequest):
    model_config = shown_with({"messages": [{"role": "user", "content": "What is the capital of England?"}], "max_tokens": 32})

    max_tokens: int = Field(ge=1, description="Cut to what the context has room for.")
    stop_sequences: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_LENGTH)]],
        at_most(MAX_STOP_STRINGS),
    ] = Field([], max_length=MAX_STOP_STRINGS)
    stream: bool = False
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31, description="0 or -1: off.")
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    priority: int = Field(0, ge=-(2**63), lt=2**63, description="Lower goes first, under the priority policy.")
    cache_salt: CacheSalt | None = None
    timeout: float | None = Field(None, gt=0, description="Seconds from arrival to the end.")

    # Bookkeeping: it changes no answer.
    metadata: Annotated[dict[str, Any], at_most(MAX_KEYS)] | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
