"""The words that the API process and the engine process share: plain data, structs that travel as they are. No torch, no HTTP."""

from __future__ import annotations

import enum
from typing import Any, Literal

import msgspec

from headway.server.stats import AdapterStats, BalancingStats, DraftModelInfo, DraftStats, TransferStats


class FinishReason(enum.StrEnum):
    """Why a request ended. Every accepted request ends in exactly one of these."""

    STOP = "stop"  # end-of-sequence token, a stop token or a stop string
    LENGTH = "length"  # max_tokens or the context length
    REPETITION = "repetition"  # the answer goes round in circles, see RepetitionRule
    ABORT = "abort"  # the client went away, or the server is stopping
    TIMEOUT = "timeout"  # its time limit is over; TokenDelta.error says which
    QUEUE_TIMEOUT = "queue_timeout"  # it was not scheduled in time; TokenDelta.error says how long it waited
    ERROR = "error"  # the request broke; TokenDelta.error says how

    @property
    def is_answer(self) -> bool:
        """Whether what was generated until then is the answer, and not the rest of one."""
        return self in (FinishReason.STOP, FinishReason.LENGTH, FinishReason.REPETITION)


# A score that is divided by less may become infinite.
LOWEST_REPETITION_PENALTY = 1e-6


class Grammar(msgspec.Struct, frozen=True, omit_defaults=True):
    """What an answer's text must be. ``source``, as ``kind`` says: a JSON schema, a regular expression, a JSON list of texts, a Lark or
    GBNF grammar, a structural tag's JSON, or, once the API process has checked it, the grammar library's own form of any of these.

    ``starts_after``: tokens of the answer, in a row, before which it is free (the end of a model's reasoning); empty: it never is.
    The others are for what is not checked yet. ``whitespace``: what may stand between the marks of JSON, a regular expression; empty:
    nothing; None: any. ``closes_objects``: JSON objects have no properties beside those that they list. ``param``: the request's
    field that errors name.
    """

    kind: Literal["json_schema", "regex", "choice", "grammar", "structural_tag", "checked"]
    source: str
    starts_after: tuple[int, ...] = ()
    whitespace: str | None = None
    closes_objects: bool = False
    param: str | None = None


class ThinkingBudget(msgspec.Struct, frozen=True, omit_defaults=True):
    """At most ``num_tokens`` tokens of reasoning; after them ``forced`` is the only thing that can come.

    ``is_open``: the answer begins with reasoning. Else it begins behind ``start``, some tokens in a row at the beginning of the answer;
    the token ``end`` ends it. ``may_restart``: it can begin anew behind another ``start``, and all of it counts.
    """

    num_tokens: int
    start: tuple[int, ...]
    end: int
    forced: tuple[int, ...]
    is_open: bool = False
    may_restart: bool = False


class RepetitionRule(msgspec.Struct, frozen=True):
    """An answer that ends in ``min_count`` times the same tokens, ``min_pattern_size`` to ``max_pattern_size`` of them, is over."""

    min_pattern_size: int
    max_pattern_size: int
    min_count: int


class ProcessorChoice(msgspec.Struct, frozen=True):
    """A function of --logits-processors, by the name that it has there. With ``args`` or ``kwargs`` it is called with them for the
    request and returns what processes the logits; None: it does so itself."""

    name: str
    args: list[Any] | None = None
    kwargs: dict[str, Any] | None = None


class SamplingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """How to choose tokens. Validated and completed (defaults, limits) by the API process.

    Temperature below 1e-5 means greedy. ``top_k`` 0 and ``top_p`` 1 and ``min_p`` 0 are off.
    ``logprobs`` None: none; 0: the sampled token's only; k: also the k most likely (-1: the whole vocabulary).
    ``eos_token_ids`` end the request unless ``ignore_eos`` (they are then simply not given to the stop rule);
    ``stop_token_ids`` always do. ``min_tokens`` bans both until that many tokens exist.
    Stop strings are not here: text lives in the API process, which ends the request itself.
    Nothing but ``allowed_token_ids`` (not empty) may be chosen; no list of ``bad_words`` may be completed in the output.
    ``logprob_token_ids``: with ``logprobs``, whose logprobs are told in the place of the most likely ones.
    ``extra_args`` (vllm_xargs) is what a user's logits processors read; None where there are none, as they expect.
    """

    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    seed: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    grammar: Grammar | None = None
    thinking: ThinkingBudget | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[tuple[int, ...], ...] = ()
    logprob_token_ids: tuple[int, ...] = ()
    repetition: RepetitionRule | None = None
    logits_processors: tuple[ProcessorChoice, ...] = ()
    extra_args: dict[str, Any] | None = None

    @property
    def is_greedy(self) -> bool:
        return self.temperature < 1e-5


class AdapterRef(msgspec.Struct, frozen=True):
    """A LoRA adapter in PEFT's format. ``id`` is given once in a server's life: one that is changed gets another."""

    id: int
    name: str
    path: str  # absolute


class KVSource(msgspec.Struct, frozen=True):
    """Where another server keeps the KV of a prompt. ``token``: who knows it may read them. Rank r of ``num_ranks`` listens at
    ``port`` + r of ``host``, or of its own of ``hosts``. ``block_ids`` are for the eye: the other server says what is read."""

    engine_id: str
    token: str
    host: str
    port: int
    num_ranks: int
    block_ids: tuple[int, ...] = ()
    hosts: tuple[str, ...] = ()


class KVTransfer(msgspec.Struct, frozen=True, omit_defaults=True):
    """A request's part in a prefill for another server: its prompt's KV is kept, or comes from ``source``. ``announces``: where it will
    be is told before it is computed, and whoever hears of that may read it bit by bit."""

    keeps: bool = False
    announces: bool = False
    source: KVSource | None = None


class GenerateRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sequence to generate. ``n`` choices are n of these, with ids of their own.

    ``prompt_token_ids`` is never empty. ``arrival_time`` is ``time.time()`` in the API process, in seconds.
    Lower ``priority`` values go first under the priority policy. ``cache_salt`` separates prefix-cache tenants.
    ``adapter_id`` is that of an adapter that the engine knows; None: the base model.
    ``queue_timeout_s`` after its arrival it ends with QUEUE_TIMEOUT if it was never scheduled; None: it waits for as long as it takes.
    """

    request_id: str
    prompt_token_ids: list[int]
    sampling: SamplingParams
    arrival_time: float
    priority: int = 0
    cache_salt: str | None = None
    adapter_id: int | None = None
    queue_timeout_s: float | None = None
    kv_transfer: KVTransfer | None = None


PoolingTask = Literal["embed", "token_embed", "classify"]


class PoolingParams(msgspec.Struct, frozen=True, omit_defaults=True):
    """What to make of a text's hidden states: a vector of it, one of each token, or scores of labels.

    ``use_activation``: whether a vector is normalised, scores are made probabilities; None: as the model was trained for.
    ``dimensions``: the first so many of a vector; None: all.
    """

    task: PoolingTask
    use_activation: bool | None = None
    dimensions: int | None = None


class PoolRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """One text to pool. The fields that GenerateRequest has too mean the same there.

    ``num_first_segment``: of two texts that are scored against each other, how many tokens belong to the first; None: it is one text.
    """

    request_id: str
    prompt_token_ids: list[int]
    pooling: PoolingParams
    arrival_time: float
    priority: int = 0
    queue_timeout_s: float | None = None
    num_first_segment: int | None = None


EngineRequest = GenerateRequest | PoolRequest


class Pooled(msgspec.Struct, frozen=True):
    """A result: ``num_rows`` vectors of equal length, one after the other, in fp32, lowest byte first."""

    data: bytes
    num_rows: int = 1


class TokenLogprobs(msgspec.Struct, frozen=True):
    """Log-probabilities at one position, natural log, of the model's own distribution (before any sampling option).

    ``rank`` is 1 for the most likely token. ``top`` holds (token id, logprob) pairs, most likely first: of the most likely tokens, or of
    ``logprob_token_ids``.
    """

    token_id: int
    logprob: float
    rank: int
    top: list[tuple[int, float]]


class RequestTimes(msgspec.Struct, frozen=True):
    """When things happened to a request in the engine: ``time.time()`` seconds, None for what never happened."""

    arrival: float
    scheduled: float | None
    first_token: float | None
    last_token: float | None
    num_preemptions: int = 0


class TokenDelta(msgspec.Struct, omit_defaults=True):
    """New tokens of one request. The last one of a request, and only that, has ``finish_reason``.

    ``logprobs`` is parallel to ``token_ids`` when asked for. ``prompt_logprobs`` comes once, with the first delta: one entry
    a prompt token, None for the first. ``stop_reason`` is the stop token that ended it (None for end-of-sequence).
    ``is_request_fault``: it is the request, and not the engine, that is to blame for ``error``.
    ``num_cached_tokens`` counts prompt tokens taken from the prefix cache or, ``num_fetched_tokens`` of them, from elsewhere.
    ``times`` comes with the first delta, without the last token's, and with the last. ``kv_source``, with the last one: where the
    prompt's KV is kept, if that was asked for; if it is to be announced, in a delta of its own before all others: where it will be.
    A request to pool has one delta, with ``pooled`` unless it failed.
    """

    request_id: str
    token_ids: list[int] = []
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs | None] | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    num_cached_tokens: int = 0
    error: str | None = None
    is_request_fault: bool = False
    times: RequestTimes | None = None
    pooled: Pooled | None = None
    num_fetched_tokens: int = 0
    kv_source: KVSource | None = None


class EngineStats(msgspec.Struct, frozen=True):
    """One engine's state after a step; the totals only ever grow. None: it has no connector, takes no adapters, guesses nothing, moves no
    experts."""

    num_running: int = 0
    num_waiting: int = 0
    num_blocks_used: int = 0
    num_blocks_total: int = 0
    num_preemptions: int = 0
    prefix_cache_queries: int = 0  # tokens
    prefix_cache_hits: int = 0  # tokens
    num_steps: int = 0
    last_step_tokens: int = 0
    last_step_s: float = 0.0
    transfers: TransferStats | None = None
    adapters: AdapterStats | None = None
    drafts: DraftStats | None = None
    balancing: BalancingStats | None = None

    @property
    def kv_cache_usage(self) -> float:
        return self.num_blocks_used / self.num_blocks_total if self.num_blocks_total else 0.0


SleepMode = Literal["abort", "wait", "keep"]  # what becomes of open requests: ended, finished first, frozen until the engine wakes
SleepPart = Literal["weights", "kv_cache", "scheduling"]


class SleepState(msgspec.Struct, frozen=True):
    """Whether an engine sleeps. ``level`` None: it is awake.

    Level 0 stops scheduling only, and new requests wait; 1 and 2 also give memory back, and new requests are refused. ``parts``: what
    has to be woken; empty while the engine is still falling asleep, since requests are open that it lets finish.
    """

    level: int | None = None
    parts: tuple[SleepPart, ...] = ()

    @property
    def is_asleep(self) -> bool:
        return bool(self.parts)

    @property
    def given_back_level(self) -> int:
        """The level whose memory has been given back; 0: none."""
        return self.level or 0 if self.parts else 0

    @property
    def refuses_requests(self) -> bool:
        return bool(self.level)


class PoolingInfo(msgspec.Struct, frozen=True):
    """What a model that pools texts can do.

    ``dimension`` is a vector's length. ``matryoshka``: whether the first part of a vector is one too, and if not any length will do,
    which: None: no; empty: any. ``labels`` are a classifier's, in the order of its scores.
    """

    tasks: tuple[PoolingTask, ...]
    dimension: int
    matryoshka: tuple[int, ...] | None = None
    labels: tuple[str, ...] = ()

    @property
    def scores_pairs(self) -> bool:
        """It reads two texts at once and gives one score: a cross-encoder."""
        return "classify" in self.tasks and len(self.labels) == 1


class EngineInfo(msgspec.Struct, frozen=True):
    """What an engine turned out to be once it was ready: decided, not asked."""

    device: str  # "cpu (AVX2, 2 threads)", "cuda:0 NVIDIA H200 as the first of 2 ranks": begins with the kind of device, however many
    architecture: str  # "llama"
    dtype: str  # "float32", "bfloat16"
    weight_format: str  # "fp32", "bf16", "int8 (8-bit activations)"
    max_model_len: int
    vocab_size: int
    block_size: int  # tokens of a KV block, over all ranks that hold a part of it
    num_blocks: int
    max_num_seqs: int
    max_num_batched_tokens: int
    weight_bytes: int  # of a model that is split: on the first rank
    kv_cache_bytes: int  # the same
    phases: dict[str, float]  # start-up phase -> seconds
    reads_extra_args: bool = False  # a class of --logits-processors sees every request
    processor_names: tuple[str, ...] = ()  # functions of --logits-processors, for requests to choose from
    pooling: PoolingInfo | None = None  # None: the model generates text
    draft_model: DraftModelInfo | None = None
    attention: str | None = None  # the library whose attention kernels run, with its version; None: Headway's own
