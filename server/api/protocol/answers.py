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
    code: int = Field(description="The HTTP status.")


class ErrorAnswer(Documented):
    error: ErrorDetail


class PromptTokensDetails(Documented):
    cached_tokens: int = Field(description="Prompt tokens that came from the prefix cache.")


class UsageAnswer(Documented):
    model_config = ConfigDict(title="Usage")

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails | None = None


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
FinishedBy = Literal["stop", "length"]


class ChatMessage(Documented):
    role: str
    content: str
    refusal: None
    annotations: None
    audio: None
    function_call: None
    reasoning: None


class ChatChoice(Documented):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishedBy
    stop_reason: int | str | None = Field(description="The stop string or stop token that ended the answer.")
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
    kv_transfer_params: None
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
    stop_reason: int | str | None = Field(description="The stop string or stop token that ended the answer.")
    token_ids: list[int] | None = Field(description="With return_token_ids.")
    prompt_token_ids: list[int] | None = Field(description="With return_token_ids.")
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
    kv_transfer_params: None
    metrics: dict[str, float | None] | None = Field(None, description="With --enable-per-request-metrics.")


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
