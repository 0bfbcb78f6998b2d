"""A server whose steps take virtual time: the engine's own scheduler and KV cache, and a cost in the place of the model."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Self

from sim_scheduler import TOKEN, FastForward

from headway.server.engine.batch import BatchPlan, BatchResult, RowResult
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.types import EngineStats, FinishReason, GenerateRequest, TokenDelta


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of a step, from what is in it. See ``H200_LLAMA_8B`` for where its numbers come from."""

    weights_s: float  # reading the weights: no step takes less
    token_s: float  # products, a token, where there are enough of them to be worth more than the weights
    row_s: float
    context_s: float  # a key that a decode row reads
    pair_s: float  # a query and a key of prefill

    def step_s(self, rows: Iterable[tuple[int, int]], num_decoding: int = 0, num_context_tokens: int = 0) -> float:
        """``rows``: (tokens computed now, tokens in the sequence with them). Beside them so many decode, with so many tokens together."""
        num_tokens = num_rows = num_decoding
        seconds = num_context_tokens * self.context_s
        for num, length in rows:
            num_tokens += num
            num_rows += 1
            seconds += length * self.context_s if num == 1 else num * (length - num / 2) * self.pair_s
        return seconds + max(self.weights_s, num_tokens * self.token_s) + num_rows * self.row_s


# Fitted to benchmarks/results/2026-11-26-h200.md (Llama-3.1-8B's shape, bf16): steps of 1 and of 64 at 2048 tokens, 4.66 and 9.16 ms, of
# which decode attention 0.33 and 4.31 ms; a prompt of 8192 in 231.9 ms, of which attention 56.9 ms.
H200_LLAMA_8B = CostModel(weights_s=4.32e-3, token_s=2.13e-5, row_s=8.0e-6, context_s=3.3e-8, pair_s=1.7e-9)


@dataclass(slots=True)
class Limits:
    """Of a server, by the names of its options. The blocks are those that an H200 has beside the model."""

    num_blocks: int = 56_589
    block_size: int = 16
    max_num_batched_tokens: int = 8192
    max_num_seqs: int = 256
    max_model_len: int = 131_072

    @classmethod
    def of_blocks(cls, block_size: int) -> Self:
        """As many tokens as by default, in blocks of another size."""
        return cls(num_blocks=cls().num_blocks * cls().block_size // block_size, block_size=block_size)


class SimulatedServer:
    """``begin`` at ``now``, ``finish`` at the time that it said; nothing else moves its clock.

    What is begun is a step, or a run of steps that are alike: a run is cut behind the step under way when a request arrives in it, which
    then waits for that step's end as it would have done.
    """

    def __init__(self, costs: CostModel, limits: Limits) -> None:
        self._now = 0.0
        self._costs = costs
        self._scheduler = FastForward(
            kv=KVCacheManager(limits.num_blocks, limits.block_size, enable_prefix_caching=True),
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_num_seqs=limits.max_num_seqs,
            max_model_len=limits.max_model_len,
            clock=lambda: self._now,
        )
        self._plan: BatchPlan | None = None
        self._brings_token: list[bool] = []
        self._run: _Run | None = None
        self.busy_s = 0.0
        self.num_steps = 0
        self.ends_s: float | None = None  # when what was begun is over; None: idle

    @property
    def stats(self) -> EngineStats:
        return self._scheduler.stats()

    def add(self, request: GenerateRequest, now: float, block_hashes: Iterable[bytes] = ()) -> bool:
        """Whether ``ends_s`` has changed."""
        run, ended_s = self._run, self.ends_s
        if run is not None:
            num_ended = min(run.num_ended(now), run.num_steps - 1)
            if run.ends_rows and num_ended == run.num_steps - 1:
                self._begin_last(run)  # which is planned without the newcomer
            else:
                self._run = replace(run, num_steps=num_ended + 1, ends_rows=False)
                self.ends_s = run.began_s + run.seconds(num_ended + 1)
        self._scheduler.add(request, block_hashes)
        if self.ends_s is None:
            self.begin(now)
        return self.ends_s != ended_s

    def begin(self, now: float) -> None:
        """What comes next, if anything does."""
        self._now, self.ends_s = now, None
        scheduler = self._scheduler
        if num_steps := scheduler.num_steps_alike():
            num_rows = scheduler.num_aside
            first_s = self._costs.step_s((), num_rows, scheduler.num_aside_tokens + num_rows)
            ends_rows = scheduler.num_steps + num_steps == scheduler.next_end
            self._run = _Run(now, num_steps, ends_rows, first_s, num_rows * self._costs.context_s)
            self.ends_s = now + self._run.seconds(num_steps)
            return
        self._schedule()
        if self._plan is not None:
            seconds = self._costs.step_s(scheduler.rows_of(self._plan), scheduler.num_aside, scheduler.num_aside_tokens)
            self._count(1, seconds)
            self.ends_s = now + seconds

    def finish(self, now: float) -> list[TokenDelta]:
        """What the requests got in the last step of what was begun, as far as it began or ended an answer."""
        if (run := self._run) is not None:
            if not run.ends_rows:
                self._run = None
                self._scheduler.skip(run.num_steps)
                self._count(run.num_steps, run.seconds(run.num_steps))
                return []
            self._begin_last(run)
        assert self._plan is not None, "nothing was begun"
        self._now = now
        result = BatchResult([RowResult([TOKEN] if brings_token else []) for brings_token in self._brings_token])
        deltas = self._scheduler.update(self._plan, result)
        self._plan = None
        refused = self._scheduler.take_refused()
        assert not any(delta.finish_reason is FinishReason.ERROR for delta in [*deltas, *refused]), "the trace fits the servers"
        return deltas

    def _begin_last(self, run: _Run) -> None:
        """Plans the last step of a run as of the time at which it begins."""
        self._run = None
        self._scheduler.skip(run.num_steps - 1)
        self._now = run.began_s + run.seconds(run.num_steps - 1)
        self._schedule()
        self._count(run.num_steps, run.seconds(run.num_steps))

    def _schedule(self) -> None:
        self._plan = self._scheduler.schedule()
        self._brings_token = [] if self._plan is None else self._scheduler.brings_token(self._plan)

    def _count(self, num_steps: int, seconds: float) -> None:
        self.num_steps += num_steps
        self.busy_s += seconds


@dataclass(frozen=True, slots=True)
class _Run:
    """Decode steps of the same rows: each reads one key more a row than the one before, so its seconds grow by ``growth_s``."""

    began_s: float
    num_steps: int
    ends_rows: bool  # the last step; the others end none
    first_s: float
    growth_s: float

    def seconds(self, num_steps: int) -> float:
        return num_steps * self.first_s + num_steps * (num_steps - 1) / 2 * self.growth_s

    def num_ended(self, now: float) -> int:
        return bisect_right(range(1, self.num_steps + 1), now - self.began_s, key=self.seconds)
