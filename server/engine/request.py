"""A request as the engine sees it: its tokens, how far they are computed, and when what happened."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from headway.server.engine.repetition import RepetitionWatch
from headway.server.types import (
    EngineRequest,
    FinishReason,
    GenerateRequest,
    KVTransfer,
    RequestTimes,
    SamplingParams,
    TokenDelta,
    TokenLogprobs,
)


class RequestState(enum.Enum):
    WAITING = enum.auto()  # new, or preempted: holds no blocks and no row of the runner
    FETCHING = enum.auto()  # holds blocks, no row: KV from elsewhere is on its way to them, or there
    RUNNING = enum.auto()  # holds blocks and a row
    FINISHED = enum.auto()  # its terminal delta exists


@dataclass(slots=True, eq=False)
class Request:
    """One sequence. Changed by the scheduler only, but for ``block_hashes``.

    ::

        token_ids   [ prompt .................. | generated ..... ] awaited ...
                      num_computed_tokens ^         ^ num_scheduled_tokens

    ``num_scheduled_tokens`` counts tokens in plans already handed out, ``num_computed_tokens`` those whose step has come back;
    they differ only while a step runs. ``num_awaited_tokens`` counts those that plans handed out will bring: they are there for the
    plans behind, which compute them before anyone here knows what they are. All three fall to 0 at a preemption.
    """

    request_id: str
    token_ids: list[int]
    num_prompt_tokens: int
    sampling: SamplingParams
    arrival_time: float
    arrival_number: int  # the scheduler's own count: breaks ties, and is the order under fcfs
    priority: int = 0
    cache_salt: str | None = None
    adapter_id: int | None = None
    queue_timeout_s: float | None = None
    kv_transfer: KVTransfer | None = None  # its source is tried once
    state: RequestState = RequestState.WAITING
    num_scheduled_tokens: int = 0
    num_computed_tokens: int = 0
    num_awaited_tokens: int = 0
    num_cached_tokens: int = 0  # prompt tokens found in the prefix cache when it first ran, or fetched
    num_fetched_tokens: int = 0  # of those, from elsewhere
    num_preemptions: int = 0
    has_answered: bool = False  # its first delta is out
    repetition: RepetitionWatch | None = None  # has seen the generated tokens, survives preemption; None: nobody asked
    prompt_logprobs: list[TokenLogprobs | None] = field(default_factory=list)  # gathered chunk by chunk until the first delta
    scheduled_time: float | None = None
    first_token_time: float | None = None
    last_token_time: float | None = None
    block_hashes: list[bytes] = field(default_factory=list)  # of its first full blocks; filled by the KV manager, survives preemption

    @classmethod
    def of(cls, request: GenerateRequest, arrival_number: int = 0) -> Request:
        return cls(
            request_id=request.request_id,
            token_ids=list(request.prompt_token_ids),
            num_prompt_tokens=len(request.prompt_token_ids),
            sampling=request.sampling,
            arrival_time=request.arrival_time,
            arrival_number=arrival_number,
            priority=request.priority,
            cache_salt=request.cache_salt,
            adapter_id=request.adapter_id,
            queue_timeout_s=request.queue_timeout_s,
            kv_transfer=request.kv_transfer,
            repetition=RepetitionWatch(request.sampling.repetition) if request.sampling.repetition is not None else None,
        )

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_unscheduled_tokens(self) -> int:
        """Tokens that no plan has computed yet, known or awaited: 1 in decode, more in prefill."""
        return len(self.token_ids) + self.num_awaited_tokens - self.num_scheduled_tokens

    def awaits_its_last(self, max_len: int) -> bool:
        """Whether a plan handed out brings the token that ends it by its length, of at most ``max_len`` tokens."""
        num_awaited = self.num_awaited_tokens
        if num_awaited == 0:
            return False
        return self.num_output_tokens + num_awaited >= self.sampling.max_tokens or self.num_tokens + num_awaited >= max_len

    @property
    def wants_prompt_logprobs(self) -> bool:
        """True until they are out: every prompt token must be computed, none taken from the cache."""
        return self.sampling.prompt_logprobs is not None and not self.has_answered

    @property
    def times(self) -> RequestTimes:
        return RequestTimes(self.arrival_time, self.scheduled_time, self.first_token_time, self.last_token_time, self.num_preemptions)

    def take_fetched(self, num_tokens: int) -> None:
        """KV has come for so many more tokens. What a preempted request fetches is not counted: it had it before."""
        self.num_computed_tokens += num_tokens
        if self.num_preemptions == 0:
            self.num_fetched_tokens, self.num_cached_tokens = num_tokens, self.num_computed_tokens

    def gather(self, num_tokens: int, entries: list[TokenLogprobs]) -> None:
        """Appends the prompt logprobs of a chunk, before it counts as computed. A prompt that is computed anew is gathered anew."""
        if self.num_computed_tokens == 0:
            self.prompt_logprobs = [None]
        self.prompt_logprobs += entries
        expected = min(self.num_computed_tokens + num_tokens + 1, self.num_prompt_tokens)
        got = len(self.prompt_logprobs)
        assert got == expected, f"request {self.request_id} has prompt logprobs of {got} tokens, not {expected}"


def aborted(request: EngineRequest) -> TokenDelta:
    """The terminal delta of a request that no scheduler has seen."""
    times = RequestTimes(request.arrival_time, None, None, None)
    return TokenDelta(request.request_id, finish_reason=FinishReason.ABORT, times=times)
