"""Which texts the next step pools. Policy only: no tensor comes here.

The one idea of the other scheduler, tokens per request, with one number: a text's tokens are computed in one step, all of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from headway.server.engine.expiry import Expiry
from headway.server.engine.pooling.batch import PoolingPlan, PoolingResult, PoolingRow
from headway.server.engine.request import Request
from headway.server.engine.waiting import Policy, make_waiting_queue
from headway.server.types import EngineStats, FinishReason, PoolRequest, RequestTimes, SamplingParams, TokenDelta


class PoolingScheduler:
    """Owns the queue. See Scheduler for its use: ``schedule``, run the plan, ``update``. Not thread-safe."""

    def __init__(
        self,
        *,
        max_num_batched_tokens: int,
        max_num_seqs: int,
        max_model_len: int,
        num_blocks: int | None = None,
        block_size: int = 1,
        policy: Policy = "fcfs",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``num_blocks``: of the pages that a step has, None for a model that needs none. One text may be longer than the budget: the
        runner then computes it alone, in pieces."""
        self._budget = max_num_batched_tokens
        self._max_num_seqs = max_num_seqs
        self._max_model_len = max_model_len
        self._num_blocks = num_blocks
        self._block_size = block_size
        self._clock = clock
        self._waiting = make_waiting_queue(policy)
        self._expiry = Expiry()
        self._open: dict[str, PoolRequest] = {}
        self._queued: dict[str, Request] = {}
        self._refused: list[TokenDelta] = []
        self._started: dict[str, float] = {}  # when the step began that computes them
        self._num_arrivals = 0

    @property
    def has_work(self) -> bool:
        """Whether a request is open or a terminal delta waits to be taken."""
        return bool(self._open) or bool(self._refused)

    def open_request_ids(self) -> list[str]:
        return list(self._open)

    def add(self, request: PoolRequest) -> None:
        """Raises ValueError, and accepts nothing, for an id that is open already and for a text that the model can't take."""
        if request.request_id in self._open:
            raise ValueError(f"A request with the id {request.request_id} is already open: give each request an id of its own.")
        num_tokens = len(request.prompt_token_ids)
        if not 0 < num_tokens <= self._max_model_len:
            raise ValueError(f"The text has {num_tokens} tokens: this model takes 1 to {self._max_model_len}.")
        queued = _queued(request, self._num_arrivals)
        self._num_arrivals += 1
        self._open[request.request_id] = request
        self._queued[request.request_id] = queued
        self._waiting.push(queued)
        self._expiry.add(queued)

    def take_refused(self) -> list[TokenDelta]:
        """The terminal deltas of requests that expired in the queue, once."""
        refused, self._refused = self._refused, []
        return refused

    def abort(self, request_ids: Iterable[str]) -> list[TokenDelta]:
        """Ends the requests that are open, each with a terminal delta; ids that are unknown or have ended are ignored."""
        return [self._end(request_id, FinishReason.ABORT) for request_id in request_ids if request_id in self._open]

    def preempt_all(self) -> None:
        """Between steps nothing runs that could give way."""

    def schedule(self) -> PoolingPlan | None:
        """Texts in the policy's order, until one does not fit beside the others: none overtakes, so none starves."""
        now = self._clock()
        self._expire(now)
        chosen: list[PoolRequest] = []
        num_tokens = num_blocks = 0
        while self._waiting and len(chosen) < self._max_num_seqs:
            request = self._open[self._waiting.head().request_id]
            num_tokens += len(request.prompt_token_ids)
            num_blocks += -(-len(request.prompt_token_ids) // self._block_size)
            if chosen and (num_tokens > self._budget or (self._num_blocks is not None and num_blocks > self._num_blocks)):
                break
            queued = self._waiting.pop()
            self._expiry.discard(queued)
            del self._queued[request.request_id]
            self._started[request.request_id] = now
            chosen.append(request)
        return PoolingPlan(chosen) if chosen else None

    def _expire(self, now: float) -> None:
        for request_id in self._expiry.take_due(now):
            waited = now - self._open[request_id].arrival_time
            text = f"The request has waited {waited:.1f} s without being scheduled (--queue-timeout): try again later."
            self._refused.append(self._end(request_id, FinishReason.QUEUE_TIMEOUT, error=text))

    def update(self, plan: PoolingPlan, result: PoolingResult) -> list[TokenDelta]:
        """Takes in what came of a plan: the end of each of its requests that is still open."""
        pairs = zip(plan.requests, result.rows, strict=True)
        return [self._finish(request.request_id, row) for request, row in pairs if request.request_id in self._open]

    def _finish(self, request_id: str, row: PoolingRow) -> TokenDelta:
        if row.error is not None:
            return self._end(request_id, FinishReason.ERROR, error=row.error)
        delta = self._end(request_id, FinishReason.STOP, ended=self._clock())
        delta.pooled = row.pooled
        return delta

    def _end(self, request_id: str, reason: FinishReason, *, error: str | None = None, ended: float | None = None) -> TokenDelta:
        request = self._open.pop(request_id)
        queued = self._queued.pop(request_id, None)
        if queued is not None:
            self._waiting.remove(queued)
            self._expiry.discard(queued)
        times = RequestTimes(request.arrival_time, self._started.pop(request_id, None), None, ended)
        return TokenDelta(request_id, finish_reason=reason, error=error, times=times)

    def stats(self) -> EngineStats:
        """The counts of now; the core fills in its own fields about steps."""
        return EngineStats(num_running=len(self._started), num_waiting=len(self._waiting))


def _queued(request: PoolRequest, arrival_number: int) -> Request:
    """The request as queues know it: it waits as any other does."""
    return Request(
        request_id=request.request_id,
        token_ids=request.prompt_token_ids,
        num_prompt_tokens=len(request.prompt_token_ids),
        sampling=SamplingParams(max_tokens=0),
        arrival_time=request.arrival_time,
        arrival_number=arrival_number,
        priority=request.priority,
        queue_timeout_s=request.queue_timeout_s,
    )
