"""The body of POST /v1/responses, and the queries of its neighbours."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, FailFast, Field, StringConstraints, WithJsonSchema

from headway.server.api.protocol.base import MAX_KEYS, GenerationFields, RequestModel, StreamOptions, at_most, shown_with
from headway.server.api.protocol.messages import ReasoningEffort
from headway.server.api.protocol.parse import shortened
from headway.server.api.protocol.tools import MAX_TOOLS
from headway.server.errors import RequestError

MAX_ITEMS = 16384
LOGPROBS = "message.output_text.logprobs"
# Reasoning is told as it is, and comes back as it is: there is nothing to encrypt.
ENCRYPTED_REASONING = "reasoning.encrypted_content"

_PARTS = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"type": {"enum": ["input_text", "output_text"]}, "text": {"type": "string"}},
        "required": ["type", "text"],
    },
}
_TEXT = {"anyOf": [{"type": "string"}, _PARTS]}
_STRING = {"type": "string"}
_ITEM = {
    "anyOf": [
        {
            "type": "object",
            "properties": {
                "type": {"const": "message"},
                "role": {"enum": ["user", "assistant", "system", "developer"]},
                "content": _TEXT,
            },
            "required": ["role", "content"],
        },
        {
            "type": "object",
            "properties": {"type": {"const": "function_call"}, "call_id": _STRING, "name": _STRING, "arguments": _STRING},
            "required": ["type", "call_id", "name", "arguments"],
        },
        {
            "type": "object",
            "properties": {"type": {"const": "function_call_output"}, "call_id": _STRING, "output": _TEXT},
            "required": ["type", "call_id", "output"],
        },
        {
            "type": "object",
            "properties": {
                "type": {"const": "reasoning"},
                "content": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"type": {"const": "reasoning_text"}, "text": _STRING}},
                },
            },
            "required": ["type"],
        },
        {"type": "object", "properties": {"type": {"const": "item_reference"}, "id": _STRING}, "required": ["type", "id"]},
    ]
}
_TOOL = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "name": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,128}$"},
        "description": {"type": ["string", "null"]},
        "parameters": {"type": ["object", "null"], "properties": {"type": {"const": "object"}}, "description": "A JSON schema."},
        "strict": {"type": ["boolean", "null"]},
    },
    "required": ["type", "name"],
}
_NAMED = {"type": "object", "properties": {"type": {"const": "function"}, "name": _STRING}, "required": ["type", "name"]}
_ALLOWED = {
    "type": "object",
    "properties": {
        "type": {"const": "allowed_tools"},
        "mode": {"enum": ["auto", "required"]},
        "tools": {"type": "array", "items": _NAMED},
    },
    "required": ["type", "mode", "tools"],
}
# Judged item by item in serving/responses/items.py, so that an error says which type is at fault.
Item = Annotated[dict[str, Any], WithJsonSchema(_ITEM)]


class ResponseStreamOptions(StreamOptions):
    continuous_usage_stats: Literal[False] = Field(False, description="Usage comes with the last event.")


class TextFormat(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["text", "json_object", "json_schema"]
    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,128}$")] | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema", description="With json_schema: the answer's JSON schema.")
    description: str | None = None
    strict: bool | None = None


class TextOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: Annotated[TextFormat, at_most(MAX_KEYS)] | None = None
    verbosity: Literal["medium"] | None = Field(None, description="Models here know no other.")


class ReasoningOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    effort: ReasoningEffort | None = None
    summary: Literal["auto", "concise", "detailed"] | None = Field(
        None, description="Without effect: reasoning is told whole, not summed up."
    )


class ResponsesRequest(GenerationFields):
    """Sampling and bookkeeping are those of a chat; what a response can't show is fixed here."""

    OPERATION = "chat"
    model_config = shown_with({"input": "What is the capital of England?", "max_output_tokens": 32})

    input: Annotated[str, StringConstraints(min_length=1)] | Annotated[list[Item], Field(min_length=1), at_most(MAX_ITEMS)] = Field(
        union_mode="left_to_right"
    )
    instructions: str | None = Field(None, description="A system message before all others; not carried over to the next response.")
    previous_response_id: str | None = Field(None, description="Whose conversation goes on.")
    max_output_tokens: int | None = Field(None, ge=1, description="Default: what remains of the context.")
    include: list[str] = Field([], max_length=16, description=f"{LOGPROBS}; {ENCRYPTED_REASONING} changes nothing.")
    top_logprobs: int = Field(0, ge=0, description=f"Needs {LOGPROBS} in include.")
    text: Annotated[TextOptions, at_most(MAX_KEYS)] = Field(default_factory=lambda: TextOptions.model_validate({}))
    reasoning: Annotated[ReasoningOptions, at_most(MAX_KEYS)] = Field(default_factory=lambda: ReasoningOptions.model_validate({}))
    tools: Annotated[list[Annotated[dict[str, Any], WithJsonSchema(_TOOL)]], FailFast(), at_most(MAX_TOOLS)] = Field(
        [], description="Functions; an empty list is none."
    )
    tool_choice: Annotated[
        Any, at_most(8), WithJsonSchema({"anyOf": [{"enum": ["none", "auto", "required"]}, _NAMED, _ALLOWED, {"type": "null"}]})
    ] = None
    parallel_tool_calls: bool = Field(True, description="false: the answer has one call at most.")
    max_tool_calls: int | None = Field(None, ge=1, description="Of built-in tools, which there are none.")
    truncation: Literal["auto", "disabled"] = Field(
        "disabled", description="auto: what the context has no room for is left out, the oldest messages first."
    )
    background: bool = Field(False, description="Answers at once; ask for the response by its id.")
    chat_template_kwargs: Annotated[dict[str, Any], at_most(MAX_KEYS)] = Field({}, description="Further variables of the chat template.")
    metadata: Annotated[dict[str, str], at_most(MAX_KEYS)] | None = None
    stream_options: Annotated[ResponseStreamOptions, at_most(MAX_KEYS)] | None = None
    request_id: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9._-]{1,64}$")] | None = Field(
        None, description="Becomes a part of the response's id."
    )

    response_format: Annotated[Any, WithJsonSchema({"type": "null"})] = Field(None, description="Send text.format.")
    n: Literal[1] = 1
    echo: Literal[False] = False
    prompt_logprobs: None = None
    return_token_ids: Literal[False] = False

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = GenerationFields.REFUSED | {
        "conversation": (),
        "prompt": (),
        "context_management": (),
        "moderation": (),
        "background_options": ({"completion_window": "soonest"},),
        "prompt_cache_options": (),
        "access_programs": (),
        "messages": (),
        "max_tokens": (),
    }
    ADVICE: ClassVar[dict[str, str]] = GenerationFields.ADVICE | {
        "conversation": "send previous_response_id instead",
        "messages": "send input instead",
        "max_tokens": "send max_output_tokens instead",
    }

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in self.include

    @property
    def asked_max_tokens(self) -> int | None:
        return self.max_output_tokens

    def check(self) -> None:
        super().check()
        if self.response_format is not None:
            raise RequestError("response_format is not a field of this request; send text.format instead.", "response_format")
        for at, name in enumerate(self.include):
            if name not in (LOGPROBS, ENCRYPTED_REASONING):
                raise RequestError(f"include.{at} must be {LOGPROBS} or {ENCRYPTED_REASONING}, got {shortened(name)}.", f"include.{at}")
        if self.top_logprobs and not self.wants_logprobs:
            raise RequestError(f"top_logprobs needs {LOGPROBS} in include.", "top_logprobs")
        if (transfer := self.kv_transfer_params) is not None and (transfer.do_remote_decode or transfer.announce):
            spare = "leave out do_remote_decode and announce, or send the request to /v1/chat/completions"
            raise RequestError(f"A response has no place for where its prompt's KV is kept: {spare}.", "kv_transfer_params")
        if self.background and self.store is False:
            raise RequestError("background needs the response to be stored: leave store out, or set it to true.", "store")
        _check_format(self.text.format)


def _check_format(asked: TextFormat | None) -> None:
    if asked is None:
        return
    if asked.type == "json_schema":
        for member, value in (("name", asked.name), ("schema", asked.schema_)):
            if value is None:
                raise RequestError(f"text.format.{member} is required with type json_schema.", f"text.format.{member}")
        return
    for member in asked.model_dump(by_alias=True, exclude_none=True):
        if member != "type":
            raise RequestError(f"text.format.{member} is for type json_schema only: leave it out.", f"text.format.{member}")


class RetrieveResponse(RequestModel):
    """The query of GET /v1/responses/{response_id}."""

    stream: bool = Field(False, description="The events of a background response that was asked for as a stream.")
    starting_after: int | None = Field(None, ge=0, description="The sequence_number of the last event that is not wanted.")
    include_obfuscation: Literal[False, "false"] = Field(False, description="Padding against eavesdroppers is not offered.")

    def check(self) -> None:
        if self.starting_after is not None and not self.stream:
            raise RequestError("starting_after is for streams: set stream to true, or leave it out.", "starting_after")


class ListInputItems(RequestModel):
    """The query of GET /v1/responses/{response_id}/input_items."""

    after: str | None = Field(None, description="The id of the last item that is not wanted.")
    limit: int = Field(20, ge=1, le=100)
    order: Literal["asc", "desc"] = "desc"
