"""The fields that chat and completion requests share, with their limits."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, StringConstraints
from pydantic_core import PydanticCustomError

from headway.server.api.protocol.structured import StructuredFields
from headway.server.errors import RequestError
from headway.server.types import LOWEST_REPETITION_PENALTY

# Whatever the options allow; these are their own limits (config/limits.py).
MAX_N = 16384
MAX_STOP_STRINGS = 1024
MAX_STOP_LENGTH = 1000
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIASES = 1024
MAX_KEYS = 256  # of an object whose size nothing else limits
_LOWEST_INT64, _HIGHEST_INT64 = -(2**63), 2**63 - 1


def at_most(num_items: int) -> BeforeValidator:
    """Refuses a larger list or object before its items are looked at: pydantic would report on each of a million."""

    def check(value: Any) -> Any:
        if isinstance(value, list | dict) and len(value) > num_items:
            raise PydanticCustomError("too_long", "Value should have at most {limit} items", {"limit": num_items})
        return value

    return BeforeValidator(check)


class RequestModel(BaseModel):
    """A request's body. Fields that it does not declare are kept apart and refused by ``protocol.parse``."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    # Known from OpenAI and vLLM but not done here: name -> the values that ask for nothing.
    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = {}
    # What to do about one of them, where it is more than to leave it out.
    ADVICE: ClassVar[dict[str, str]] = {}

    def check(self) -> None:
        """What pydantic can't say about single fields. Raises RequestError."""


def shown_with(*examples: dict[str, Any]) -> ConfigDict:
    """The configuration of a body whose documentation begins with ``examples``."""
    return ConfigDict(json_schema_extra={"examples": list(examples)})


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False
    continuous_usage_stats: bool = Field(False, description="Usage on every chunk; needs include_usage.")
    include_obfuscation: Literal[False] = Field(False, description="Padding against eavesdroppers is not offered.")


class GenerationFields(RequestModel, StructuredFields):
    """What to generate and how, for chat and completions alike. None: the model's own default."""

    OPERATION: ClassVar[str]  # OpenTelemetry's name for what is asked for

    model: str | None = Field(None, description="A served name; missing or empty: the model that is served.")
    n: int = Field(1, ge=1, le=MAX_N, description="At most --max-n-sequences.")
    min_tokens: int = Field(0, ge=0)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, lt=2**31, description="0 or -1: off.")
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=LOWEST_REPETITION_PENALTY, le=1e6)
    seed: int | None = Field(None, ge=_LOWEST_INT64, le=_HIGHEST_INT64, description="Choice i gets seed + i; -1: none.")
    logit_bias: Annotated[dict[int, Annotated[float, Field(ge=-100, le=100)]], at_most(MAX_LOGIT_BIASES)] = Field(
        default_factory=dict, max_length=MAX_LOGIT_BIASES
    )
    stop: (
        Annotated[str, StringConstraints(max_length=MAX_STOP_LENGTH)]
        | Annotated[
            list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_STOP_LENGTH)]],
            Field(max_length=MAX_STOP_STRINGS),
            at_most(MAX_STOP_STRINGS),
        ]
    ) = Field([], union_mode="left_to_right")
    stop_token_ids: Annotated[list[Annotated[int, Field(ge=0)]], FailFast()] = Field([], max_length=MAX_STOP_TOKEN_IDS)
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    prompt_logprobs: int | None = Field(None, ge=-1, description="-1: the whole vocabulary.")
    echo: bool = False
    stream: bool = False
    stream_options: Annotated[StreamOptions, at_most(MAX_KEYS)] | None = None
    skip_special_tokens: bool = True
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool | None = Field(None, description="Default: --return-tokens-as-token-ids.")
    stream_interval: int | None = Field(None, ge=1, le=65536, description="Tokens in one event; raises --stream-interval.")
    priority: int = Field(0, ge=_LOWEST_INT64, le=_HIGHEST_INT64, description="Lower goes first, under the priority policy.")
    cache_salt: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = None
    timeout: float | None = Field(
        None, gt=0, description="Seconds from arrival to the end; it can only shorten the server's own limit and X-Request-Timeout."
    )
    request_id: Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,128}$")] | None = None

    # OpenAI's bookkeeping: it changes no answer, there or here.
    user: str | None = None
    store: bool | None = None
    metadata: Annotated[dict[str, Any], at_most(MAX_KEYS)] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "use_beam_search": (False,),
        "length_penalty": (1, 1.0),
        "allowed_token_ids": (),
        "bad_words": (),
        "logits_processors": (),
        "logprob_token_ids": (),
        "truncate_prompt_tokens": (),
        "truncation_side": (),
        "spaces_between_special_tokens": (True,),
        "repetition_detection": (),
        "thinking_token_budget": (-1,),
        "kv_transfer_params": (),
        "ec_transfer_params": (),
        "mm_processor_kwargs": (),
        "media_io_kwargs": (),
        "vllm_xargs": (),
        "session_id": (),
        "return_prompt_text": (False,),
    }

    @property
    def stop_strings(self) -> list[str]:
        if isinstance(self.stop, str):
            return [self.stop] if self.stop else []
        return self.stop

    @property
    def wanted_logprobs(self) -> int | None:
        """SamplingParams.logprobs."""
        raise NotImplementedError

    @property
    def asked_max_tokens(self) -> int | None:
        """The limit that the request sets, None for none."""
        raise NotImplementedError

    def check(self) -> None:
        super().check()
        if self.stream_options is not None and not self.stream:
            raise RequestError("stream_options is for streams: set stream to true, or leave it out.", "stream_options")
        if self.prompt_logprobs is not None and self.stream:
            raise RequestError("prompt_logprobs can't be streamed: leave stream out, or prompt_logprobs.", "prompt_logprobs")
        limit = self.asked_max_tokens
        if limit is not None and self.min_tokens > limit:
            raise RequestError(f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({limit}).", "min_tokens")
