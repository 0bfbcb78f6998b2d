"""A server whose steps take virtual time: the engine's own scheduler and KV cache, and a cost in the place of the model."""

from __future__ import annotations

from dataclasses import dataclass

from headway.server.engine.batch import BatchPlan, BatchResult, RowResult
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.scheduler import Scheduler
from headway.server.types import EngineStats, FinishReason, GenerateRequest, TokenDelta


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds of a step, from what is in it. See ``H200_LLAMA_8B`` for where its numbers come from."""

    weights_s: float  # reading the weights: no step takes less
    token_s: float  # products, a token, where there are enough of them to be worth more than the weights
    row_s: float
    context_s: float  # a key that a decode row reads
    pair_s: float  # a query and a key of prefill

    def step_s(self, rows: list[tuple[int, int]]) -> float:
        """``rows``: (tokens computed now, tokens in the sequence with them)."""
        num_tokens = sum(num for num, _ in rows)
        seconds = max(self.weights_s, num_tokens * self.token_s) + len(rows) * self.row_s
        for num, length in rows:
            seconds += length * self.context_s if num == 1 else num * (length - num / 2) * self.pair_s
        return seconds


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


class SimulatedServer:
    """``begin_step`` at ``now``, ``finish_step`` when its seconds are over; nothing else moves its clock."""

    def __init__(self, costs: CostModel, limits: Limits) -> None:
        self._now = 0.0
        self._costs = costs
        kv = KVCacheManager(limits.num_blocks, limits.block_size, enable_prefix_caching=True)
        self._scheduler = Scheduler(
            kv=kv,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            max_num_seqs=limits.max_num_seqs,
            max_model_len=limits.max_model_len,
            clock=lambda: self._now,
        )
        self._lengths: dict[str, int] = {}  # tokens computed, of requests with a row
        self._plan: BatchPlan | None = None
        self._is_at_end: list[bool] = []
        self._targets: dict[str, int] = {}
        self.num_computed_tokens = 0

    @property
    def is_busy(self) -> bool:
        return self._plan is not None

    @property
    def stats(self) -> EngineStats:
        return self._scheduler.stats()

    def add(self, request: GenerateRequest) -> None:
        self._scheduler.add(request)

    def begin_step(self, now: float) -> float | None:
        """Its seconds; None where there is nothing to do."""
        self._now = now
        plan = self._plan = self._scheduler.schedule()
        if plan is None:
            return None
        for request_id in plan.removed:
            del self._lengths[request_id], self._targets[request_id]
        for new in plan.added:
            self._lengths[new.request_id], self._targets[new.request_id] = new.num_computed_tokens, len(new.token_ids)
        rows, self._is_at_end = [], []
        for row in plan.scheduled:
            length = self._lengths[row.request_id] = self._lengths[row.request_id] + row.num_tokens
            rows.append((row.num_tokens, length))
            self._is_at_end.append(length == self._targets[row.request_id])
            self._targets[row.request_id] += self._is_at_end[-1]
        self.num_computed_tokens += plan.num_tokens
        return self._costs.step_s(rows)

    def finish_step(self, now: float) -> list[TokenDelta]:
        """What the requests got in the step that was begun last."""
        assert self._plan is not None, "no step was begun"
        self._now = now
        result = BatchResult([RowResult([7] if is_at_end else []) for is_at_end in self._is_at_end])
        deltas = self._scheduler.update(self._plan, result)
        self._plan = None
        refused = self._scheduler.take_refused()
        assert not any(delta.finish_reason is FinishReason.ERROR for delta in [*deltas, *refused]), "the trace fits the servers"
        return deltas
