"""What answers hold, for the documentation: handlers write them faster than these models would, and tests hold them against each other."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import ConfigDict, Field, RootModel

from headway.server.api.protocol.documented import Documented
from headway.server.api.protocol.pooled_answers import Classification, Embeddings, PooledTexts, Ranking, Scores


class ErrorDetail(Documented):
    message: str = Field(description="One sentence: what is wrong and what to do.")
    type: str
    param: str | None = Field(description="The field at fault.")
    code: int | str = Field(description="The HTTP status, or a word of OpenAI's.")


class ErrorAnswer(Documented):
    error: ErrorDetail


class PromptTokensDetails(Documented):
    cached_tokens: int = Field(description="Prompt tokens that came from the prefix cache.")


class CompletionTokensDetails(Documented):
    reasoning_tokens: int = Field(description="Of the completion tokens; where the model's reasoning is told apart.")


class UsageAnswer(Documented):
    model_config = ConfigDict(title="Usage")

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None
    completion_tokens_details: CompletionTokensDetails | None = None


class TopLogprob(Documented):
    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Documented):
    content: list[TokenLogprob]
    refusal: None


class PromptLogprob(Documented):
    logprob: float
    rank: int
    decoded_token: str


# For each prompt token but the first: token id -> what is known of it.
PromptLogprobs = list[dict[str, PromptLogprob] | None]
FinishedBy = Literal["stop", "length", "repetition"]


class CalledFunction(Documented):
    name: str
    arguments: str = Field(description="A JSON object's text.")


class ChatToolCall(Documented):
    id: str
    type: Literal["function"]
    function: CalledFunction


class ChatMessage(Documented):
    role: str
    content: str | None = Field(description="null: there are calls or reasoning only.")
    refusal: None
    annotations: None
    audio: None
    function_call: None
    reasoning: str | None
    reasoning_content: str | None = Field(None, description="With --send-reasoning-content.")
    tool_calls: list[ChatToolCall] | None = Field(None, description="Absent where there are none.")


class ChatChoice(Documented):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishedBy
    stop_reason: int | str | None = Field(description="The stop string or stop token that ended the answer, or repetition_detected.")
    token_ids: list[int] | None = Field(description="With return_token_ids.")


class ChatCompletion(Documented):
    id: str
    object: Literal["chat.completion"]
    created: int = Field(description="Seconds since 1970.")
    model: str
    choices: list[ChatChoice]
    service_tier: None
    system_fingerprint: str | None
    usage: UsageAnswer
    prompt_logprobs: PromptLogprobs | None
    prompt_token_ids: list[int] | None = Field(description="With return_token_ids.")
    prompt_text: str | None = Field(description="With return_prompt_text.")
    kv_transfer_params: dict[str, Any] | None = Field(description="Where the prompt's KV is kept, with do_remote_decode.")
    metrics: dict[str, float | None] | None = Field(None, description="With --enable-per-request-metrics.")


class CompletionLogprobs(Documented):
    text_offset: list[int]
    token_logprobs: list[float | None]
    tokens: list[str]
    top_logprobs: list[dict[str, float] | None]


class CompletionChoice(Documented):
    index: int = Field(description="Choices of prompt p are p * n to p * n + n - 1.")
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishedBy
    stop_reason: int | str | None = Field(description="The stop string or stop token that ended the answer, or repetition_detected.")
    token_ids: list[int] | None = Field(description="With return_token_ids.")
    prompt_token_ids: list[int] | None = Field(description="With return_token_ids.")
    prompt_text: str | None = Field(description="With return_prompt_text.")
    prompt_logprobs: PromptLogprobs | None


class Completion(Documented):
    id: str
    object: Literal["text_completion"]
    created: int = Field(description="Seconds since 1970.")
    model: str
    choices: list[CompletionChoice]
    service_tier: None
    system_fingerprint: str | None
    usage: UsageAnswer
    kv_transfer_params: dict[str, Any] | None = Field(description="Where the prompt's KV is kept, with do_remote_decode.")
    metrics: dict[str, float | None] | None = Field(None, description="With --enable-per-request-metrics.")


class OutputTextPart(Documented):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[TokenLogprob]


class ReasoningTextPart(Documented):
    type: Literal["reasoning_text"]
    text: str


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(Documented):
    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    status: ItemStatus
    content: list[OutputTextPart]


class ReasoningItem(Documented):
    id: str
    type: Literal["reasoning"]
    summary: list[Any]
    content: list[ReasoningTextPart]
    status: ItemStatus


class FunctionCall(Documented):
    id: str
    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    status: ItemStatus


class CachedTokens(Documented):
    cached_tokens: int
    cache_write_tokens: int


class ReasoningTokens(Documented):
    reasoning_tokens: int


class ResponseUsage(Documented):
    input_tokens: int
    input_tokens_details: CachedTokens
    output_tokens: int
    output_tokens_details: ReasoningTokens
    total_tokens: int


class ResponseFailure(Documented):
    code: str
    message: str


class IncompleteDetails(Documented):
    reason: Literal["max_output_tokens", "repetition"]


class Response(Documented):
    id: str
    object: Literal["response"]
    created_at: int = Field(description="Seconds since 1970.")
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: ResponseFailure | None
    incomplete_details: IncompleteDetails | None
    output: list[ReasoningItem | OutputMessage | FunctionCall]
    usage: ResponseUsage | None
    model: str
    background: bool
    store: bool = Field(description="Whether it is kept.")
    previous_response_id: str | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    parallel_tool_calls: bool
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    temperature: float
    top_p: float
    top_logprobs: int
    text: dict[str, Any]
    reasoning: dict[str, Any]
    truncation: Literal["auto", "disabled"]
    metadata: dict[str, str]
    service_tier: None
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    metrics: dict[str, float | None] | None = Field(None, description="With --enable-per-request-metrics.")


class DeletedResponse(Documented):
    id: str
    object: Literal["response"]
    deleted: bool


class InputItems(Documented):
    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: bool


class ResponseInputTokens(Documented):
    object: Literal["response.input_tokens"]
    input_tokens: int


class Tokens(Documented):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str | None] | None = Field(description="With return_token_strs.")


class Text(Documented):
    prompt: str


class SessionOpened(Documented):
    session_id: str
    expires: str


class SessionClosed(Documented):
    session_id: str
    num_requests: int


_Invocation = ChatCompletion | Completion | Tokens | Text | Embeddings | PooledTexts | Classification | Scores | Ranking


class InvocationAnswer(RootModel[_Invocation | SessionOpened | SessionClosed]):
    """As the request's own route would answer it."""


class ModelCard(Documented):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str | None = Field(description="Where it came from.")
    parent: str | None = Field(description="Of an adapter: the model that it changes.")
    max_model_len: int = Field(description="The context length in tokens.")
    permission: list[Any]


class ModelList(Documented):
    object: Literal["list"]
    data: list[ModelCard]


class AdapterCard(Documented):
    name: str
    src: str
    pin: bool
    loaded: bool = Field(description="Whether it is in the device's memory now.")


class AdapterPage(Documented):
    adapters: list[AdapterCard]
    nextPageToken: str | None = Field(None, description="There are more: send it as next_page_token.")


class OneAdapter(RootModel[list[AdapterCard]]):
    """A list of one."""


class AdapterStatus(Documented):
    status: str


class ExecutionParameters(Documented):
    MaxConcurrentTransforms: int
    BatchStrategy: Literal["MULTI_RECORD", "SINGLE_RECORD"]
    MaxPayloadInMB: int


class HealthAnswer(Documented):
    status: str = Field(description="ok, sleeping, or why no request is served: starting, draining, hung, dead.")
    phase: str
    reason: str | None


class VersionAnswer(Documented):
    version: str


class LoadAnswer(Documented):
    server_load: int


class TokenizerInfo(RootModel[dict[str, Any]]):
    """tokenizer_config.json, with the chat template in effect."""


class SleepAnswer(Documented):
    status: Literal["sleeping"]
    level: int


class WakeUpAnswer(Documented):
    status: Literal["awake", "sleeping"]
    tags: list[str] | None


class IsSleepingAnswer(Documented):
    is_sleeping: bool


class IsPausedAnswer(Documented):
    is_paused: bool


class PauseAnswer(Documented):
    status: Literal["paused"]


class ResumeAnswer(Documented):
    status: Literal["resumed"]


class ResetAnswer(Documented):
    success: bool = Field(description="false: running requests still use some of what was forgotten.")


class ServerInfoAnswer(Documented):
    version: str
    vllm_config: str | dict[str, Any] = Field(description="The effective options.")
    engine: dict[str, Any] | None
