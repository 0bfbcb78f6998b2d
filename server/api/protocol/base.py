"""The fields that chat and completion requests share, with their limits."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, StringConstraints
from pydantic_core import PydanticCustomError

from headway.server.api.protocol.beams import check_beam_search
from headway.server.api.protocol.choosing import ExtraArgument, ProcessorCall, RepetitionDetection
from headway.server.api.protocol.kv_transfer import KVTransferParams
from headway.server.api.protocol.structured import StructuredFields
from headway.server.errors import RequestError
from headway.server.types import LOWEST_REPETITION_PENALTY

# Whatever the options allow; these are their own limits (config/limits.py).
MAX_N = 16384
MAX_STOP_STRINGS = 1024
MAX_STOP_LENGTH = 1000
MAX_STOP_TOKEN_IDS = 128
MAX_LOGIT_BIASES = 1024
MAX_ALLOWED_TOKEN_IDS = 65536
MAX_LOGPROB_TOKEN_IDS = 1024
MAX_BAD_WORDS = 128
MAX_BAD_WORD_LENGTH = 100
MAX_LOGITS_PROCESSORS = 16
MAX_KEYS = 256  # of an object whose size nothing else limits
_LOWEST_INT64, _HIGHEST_INT64 = -(2**63), 2**63 - 1

# What requests for answers and for vectors have alike.
Priority = Annotated[int, Field(ge=_LOWEST_INT64, le=_HIGHEST_INT64, description="Lower goes first, under the priority policy.")]
Timeout = Annotated[
    float | None,
    Field(gt=0, description="Seconds from arrival to the end; it can only shorten the server's own limit and X-Request-Timeout."),
]
CacheSalt = Annotated[str, StringConstraints(min_length=1, max_length=128)]
RequestId = Annotated[str, StringConstraints(pattern=r"^[\x21-\x7e]{1,128}$")]

_TokenId = Annotated[int, Field(ge=0, lt=2**31)]


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
    allowed_token_ids: Annotated[list[_TokenId], FailFast(), at_most(MAX_ALLOWED_TOKEN_IDS)] = Field(
        default_factory=list,
        min_length=1,
        max_length=MAX_ALLOWED_TOKEN_IDS,
        description="Nothing else is generated; the end of the answer neither, unless its token is listed.",
    )
    bad_words: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=MAX_BAD_WORD_LENGTH)]], FailFast(), at_most(MAX_BAD_WORDS)
    ] = Field([], max_length=MAX_BAD_WORDS, description="Texts that are not generated, at the beginning of a word or behind a blank.")
    repetition_detection: RepetitionDetection | None = None
    logits_processors: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=256)] | ProcessorCall], at_most(MAX_LOGITS_PROCESSORS)
    ] = Field([], max_length=MAX_LOGITS_PROCESSORS, description="Functions of --logits-processors, by their names there.")
    vllm_xargs: Annotated[dict[str, ExtraArgument], at_most(MAX_KEYS)] = Field(
        {}, description="What classes of --logits-processors read as params.extra_args."
    )
    use_beam_search: bool = Field(False, description="The n most likely sequences, searched for with n beams; no stream.")
    length_penalty: float = Field(1.0, ge=-10, le=10, description="Beam search: divides a sequence's logprob by length ** this.")
    include_stop_str_in_output: bool = False
    ignore_eos: bool = False
    prompt_logprobs: int | None = Field(None, ge=-1, description="-1: the whole vocabulary.")
    logprob_token_ids: Annotated[list[_TokenId], FailFast(), at_most(MAX_LOGPROB_TOKEN_IDS)] = Field(
        [], max_length=MAX_LOGPROB_TOKEN_IDS, description="Tell the logprobs of these tokens in the place of the most likely ones."
    )
    truncate_prompt_tokens: int | None = Field(
        None, ge=-1, description="Keep this many tokens of a longer prompt; -1: as many as leave room for the answer. 0 is refused."
    )
    truncation_side: Literal["left", "right"] = Field("left", description="Where a prompt that is too long is cut.")
    echo: bool = False
    stream: bool = False
    stream_options: Annotated[StreamOptions, at_most(MAX_KEYS)] | None = None
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = Field(True, description="False: drop blanks that the tokenizer puts between special tokens.")
    return_token_ids: bool = False
    return_prompt_text: bool = Field(False, description="Tell the prompt as the model gets it, as `prompt_text`.")
    return_tokens_as_token_ids: bool | None = Field(None, description="Default: --return-tokens-as-token-ids.")
    stream_interval: int | None = Field(None, ge=1, le=65536, description="Tokens in one event; raises --stream-interval.")
    priority: Priority = 0
    cache_salt: CacheSalt | None = None
    timeout: Timeout = None
    request_id: RequestId | None = None
    kv_transfer_params: Annotated[KVTransferParams, at_most(MAX_KEYS)] | None = Field(
        None, description="Prefill here for another server, or the reverse: for servers with --kv-transfer-config."
    )

    # vLLM routes by it between engines; here is one.
    session_id: Annotated[str, StringConstraints(max_length=1024)] | None = None
    # OpenAI's bookkeeping: it changes no answer, there or here.
    user: str | None = None
    store: bool | None = None
    metadata: Annotated[dict[str, Any], at_most(MAX_KEYS)] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    REFUSED: ClassVar[dict[str, tuple[Any, ...]]] = {
        "ec_transfer_params": (),
        "mm_processor_kwargs": (),
        "media_io_kwargs": (),
    }

    @property
    def stop_strings(self) -> list[str]:
        if isinstance(self.stop, str):
            return [self.stop] if self.stop else []
        return self.stop

    @property
    def streams(self) -> bool:
        """Whether the answer is a stream: one that announces where KV will be always is."""
        return self.stream or (self.kv_transfer_params is not None and self.kv_transfer_params.announce)

    @property
    def wanted_logprobs(self) -> int | None:
        """SamplingParams.logprobs."""
        raise NotImplementedError

    @property
    def asked_max_tokens(self) -> int | None:
        """The limit that the request sets, None for none."""
        raise NotImplementedError

    @property
    def num_drawn(self) -> int:
        """How many choices are generated for a prompt; ``n`` of them, at least, are answered with."""
        return self.n

    def check(self) -> None:
        super().check()
        if self.stream_options is not None and not self.streams:
            raise RequestError("stream_options is for streams: set stream to true, or leave it out.", "stream_options")
        if self.prompt_logprobs is not None and self.streams:
            raise RequestError("prompt_logprobs can't be streamed: leave stream out, or prompt_logprobs.", "prompt_logprobs")
        limit = self.asked_max_tokens
        if limit is not None and self.min_tokens > limit:
            raise RequestError(f"min_tokens ({self.min_tokens}) must not exceed max_tokens ({limit}).", "min_tokens")
        if self.truncate_prompt_tokens == 0:
            raise RequestError(
                "truncate_prompt_tokens must be at least 1, or -1 for what leaves room for the answer.", "truncate_prompt_tokens"
            )
        if self.use_beam_search:
            check_beam_search(self)
        elif self.length_penalty != 1.0:
            raise RequestError("length_penalty is for beam search: set use_beam_search to true, or leave it out.", "length_penalty")
