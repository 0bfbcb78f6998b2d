"""A runner without tensors that watches the scheduler: every slot of the cache holds the exact prefix it was computed from.

A slot's content is a number that stands for (salt, tokens up to and with its own). A row may read only what it would have written
itself, so a wrong share, an early eviction or a block given out twice is seen at once. The next token is a function of the whole
prefix, so a request's output must be the same however it was cut, cached or preempted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from headway.server.engine.batch import BatchPlan, BatchResult, NewRow, RowError, RowResult, ScheduledRow
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.scheduler import Scheduler
from headway.server.types import FinishReason, GenerateRequest, SamplingParams, TokenDelta, TokenLogprobs

VOCAB_SIZE = 11


def next_token(token_ids: Sequence[int]) -> int:
    state = 7
    for token in token_ids:
        state = (state * 31 + token + 1) % 1_000_003
    return state % VOCAB_SIZE


def expected_tokens(request: GenerateRequest, max_len: int) -> tuple[list[int], FinishReason, int | None]:
    """What the request gives when nothing goes wrong, worked out without engine, cache or batch."""
    sampling = request.sampling
    tokens = list(request.prompt_token_ids)
    for count in range(1, sampling.max_tokens + 1):
        token = next_token(tokens)
        tokens.append(token)
        output = tokens[len(request.prompt_token_ids) :]
        if count > sampling.min_tokens:
            if token in sampling.eos_token_ids and not sampling.ignore_eos:
                return output, FinishReason.STOP, None
            if token in sampling.stop_token_ids:
                return output, FinishReason.STOP, token
        if len(tokens) >= max_len:
            return output, FinishReason.LENGTH, None
    return tokens[len(request.prompt_token_ids) :], FinishReason.LENGTH, None


@dataclass
class _Row:
    token_ids: list[int]
    num_prompt_tokens: int
    sampling: SamplingParams
    num_computed: int
    salt: str | None
    block_ids: list[int] = field(default_factory=list)


class PagedRunner:
    """Runs plans on pretended pages and asserts that each plan can be run."""

    def __init__(self, num_blocks: int, block_size: int, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self.num_blocks, self.block_size = num_blocks, block_size
        self.max_num_seqs, self.max_num_batched_tokens = max_num_seqs, max_num_batched_tokens
        self.rows: dict[str, _Row] = {}
        self.salts: dict[str, str | None] = {}  # told by the driver: plans do not carry them
        self.breaks: set[str] = set()  # requests whose next row comes back with an error
        self.num_computed_tokens = 0
        self._pages: dict[int, int] = {}  # slot -> content
        self._contents: dict[tuple[int | str | None, int], int] = {}  # (parent content, token) -> content

    def execute(self, plan: BatchPlan) -> BatchResult:
        self._apply(plan)
        assert plan.scheduled, "a plan without work"
        assert plan.num_tokens <= self.max_num_batched_tokens
        ids = [item.request_id for item in plan.scheduled]
        assert len(set(ids)) == len(ids), "a row is scheduled twice"
        assert {new.request_id for new in plan.added} <= set(ids), "an added row is not scheduled"
        for item in plan.scheduled:
            self._write(item)
        return BatchResult([self._read(item) for item in plan.scheduled])

    def _apply(self, plan: BatchPlan) -> None:
        for request_id in plan.removed:
            del self.rows[request_id]  # KeyError: removed twice, or never added
        for new in plan.added:
            assert new.request_id not in self.rows, "added twice"
            assert 0 <= new.num_computed_tokens < len(new.token_ids)
            assert new.num_computed_tokens % self.block_size == 0
            self.rows[new.request_id] = self._row(new)
        for item in plan.scheduled:
            assert item.num_tokens > 0
            self.rows[item.request_id].block_ids += item.new_block_ids
        assert len(self.rows) <= self.max_num_seqs
        for row in self.rows.values():
            assert len(set(row.block_ids)) == len(row.block_ids)
            assert all(0 <= block_id < self.num_blocks for block_id in row.block_ids)

    def _row(self, new: NewRow) -> _Row:
        salt = self.salts[new.request_id]
        return _Row(list(new.token_ids), new.num_prompt_tokens, new.sampling, new.num_computed_tokens, salt, list(new.block_ids))

    def _write(self, item: ScheduledRow) -> None:
        row = self.rows[item.request_id]
        end = row.num_computed + item.num_tokens
        assert end <= len(row.token_ids), "tokens that do not exist are computed"
        assert end <= len(row.block_ids) * self.block_size, "the block table is too short"
        written = {row.block_ids[position // self.block_size] for position in range(row.num_computed, end)}
        for other_id, other in self.rows.items():
            assert other_id == item.request_id or not written & set(other.block_ids), "a block is written that another row holds"
        contents = self._prefix_contents(row, end)
        for position in range(row.num_computed, end):
            self._pages[self._slot(row, position)] = contents[position]
        self.num_computed_tokens += item.num_tokens

    def _read(self, item: ScheduledRow) -> RowResult:
        row = self.rows[item.request_id]
        first, end = row.num_computed, row.num_computed + item.num_tokens
        for position, content in enumerate(self._prefix_contents(row, end)):
            assert self._pages.get(self._slot(row, position)) == content, f"{item.request_id} reads another content at {position}"
        if item.request_id in self.breaks:
            self.breaks.remove(item.request_id)
            return RowResult([], error=RowError("broken on purpose"))
        result = RowResult([])
        if row.sampling.prompt_logprobs is not None:
            scored = range(first + 1, min(end + 1, row.num_prompt_tokens))
            result.prompt_logprobs = [TokenLogprobs(row.token_ids[p], -float(p), 1, []) for p in scored]
        row.num_computed = end
        if end == len(row.token_ids):
            token = next_token(row.token_ids)
            row.token_ids.append(token)
            result.token_ids = [token]
            if row.sampling.logprobs is not None:
                result.logprobs = [TokenLogprobs(token, -1.0, 1, [])]
        return result

    def _slot(self, row: _Row, position: int) -> int:
        return row.block_ids[position // self.block_size] * self.block_size + position % self.block_size

    def _prefix_contents(self, row: _Row, end: int) -> list[int]:
        contents: list[int] = []
        parent: int | str | None = row.salt
        for token in row.token_ids[:end]:
            parent = self._contents.setdefault((parent, token), len(self._contents))
            contents.append(parent)
        return contents


class SchedulerDriver:
    """A scheduler, its manager and a watching runner, with what every request has received."""

    def __init__(
        self,
        *,
        num_blocks: int = 64,
        block_size: int = 4,
        max_num_batched_tokens: int = 32,
        max_num_seqs: int = 8,
        max_model_len: int = 64,
        policy: str = "fcfs",
        enable_chunked_prefill: bool = True,
        long_prefill_token_threshold: int = 0,
        enable_prefix_caching: bool = True,
        watermark: float = 0.0,
        num_stages: int = 1,
    ) -> None:
        self.now = 100.0
        self.kv = KVCacheManager(num_blocks, block_size, enable_prefix_caching)
        self.scheduler = Scheduler(
            kv=self.kv,
            max_num_batched_tokens=max_num_batched_tokens,
            max_num_seqs=max_num_seqs,
            max_model_len=max_model_len,
            policy=policy,  # type: ignore[arg-type]
            enable_chunked_prefill=enable_chunked_prefill,
            long_prefill_token_threshold=long_prefill_token_threshold,
            watermark=watermark,
            num_stages=num_stages,
            clock=self._tick,
        )
        self.runner = PagedRunner(num_blocks, block_size, max_num_seqs, max_num_batched_tokens)
        longest = num_blocks * block_size if enable_chunked_prefill else min(num_blocks * block_size, max_num_batched_tokens)
        self.max_len = min(max_model_len, longest + 1)
        self.requests: dict[str, GenerateRequest] = {}
        self.deltas: dict[str, list[TokenDelta]] = {}
        self.plans: list[BatchPlan] = []
        self.num_steps = 0
        self._is_fcfs = policy == "fcfs"
        self._out: list[BatchPlan] = []

    def _tick(self) -> float:
        self.now += 1.0
        return self.now

    def add(
        self,
        request_id: str,
        prompt: list[int],
        *,
        priority: int = 0,
        cache_salt: str | None = None,
        queue_timeout_s: float | None = None,
        **sampling: object,
    ) -> None:
        parameters = SamplingParams(**{"max_tokens": 4, "ignore_eos": True, **sampling})  # type: ignore[arg-type]
        request = GenerateRequest(request_id, prompt, parameters, self.now, priority, cache_salt, queue_timeout_s=queue_timeout_s)
        self.runner.salts[request_id] = cache_salt
        self.scheduler.add(request)
        self.requests[request_id] = request
        self.deltas[request_id] = []

    def abort(self, *request_ids: str) -> list[TokenDelta]:
        deltas = self.scheduler.abort(request_ids)
        self._receive(deltas)
        return deltas

    def schedule(self) -> BatchPlan | None:
        """Makes a plan and leaves it out."""
        plan = self.scheduler.schedule()
        oldest = next(iter(self.scheduler.open_request_ids()), None)  # of those that have not just expired
        if plan is None:
            assert self._out or oldest is None, "requests are open and nothing is computed"
            return None
        if self._is_fcfs and not self._out:
            assert oldest in {item.request_id for item in plan.scheduled}, "the oldest request makes no progress"
        self._out.append(plan)
        self.plans.append(plan)
        self.num_steps += 1
        return plan

    @property
    def num_under_way(self) -> int:
        """Plans that are out."""
        return len(self._out)

    def finish_step(self) -> list[TokenDelta]:
        """Runs the oldest plan that is out, if there is one, and takes in its result."""
        deltas: list[TokenDelta] = []
        if self._out:
            plan = self._out.pop(0)
            deltas = self.scheduler.update(plan, self.runner.execute(plan))
        deltas += self.scheduler.take_refused()
        self._receive(deltas)
        self.scheduler.check()
        return deltas

    def step(self) -> list[TokenDelta]:
        self.schedule()
        return self.finish_step()

    def run(self, max_steps: int | None = None) -> int:
        """Steps until nothing is open; returns the number of steps. By default allows one for each token there can be."""
        if max_steps is None:
            open_requests = [self.requests[i] for i in self.scheduler.open_request_ids()]
            max_steps = 2 + sum(len(r.prompt_token_ids) + r.sampling.max_tokens for r in open_requests) * (1 if self._is_fcfs else 3)
        count = 0
        while self.scheduler.has_work or self._out:
            self.step()
            count += 1
            assert count <= max_steps, "no end in sight"
        assert self.kv.num_used_blocks == 0
        return count

    def tokens(self, request_id: str) -> list[int]:
        return [token for delta in self.deltas[request_id] for token in delta.token_ids]

    def last(self, request_id: str) -> TokenDelta:
        return self.deltas[request_id][-1]

    def _receive(self, deltas: list[TokenDelta]) -> None:
        assert len({delta.request_id for delta in deltas}) == len(deltas)
        for delta in deltas:
            received = self.deltas[delta.request_id]
            assert not received or received[-1].finish_reason is None, "a delta after the end"
            assert delta.token_ids or delta.finish_reason is not None, "an empty delta"
            assert (delta.times is not None) == (delta.finish_reason is not None or not received)
            if not received and delta.finish_reason is None:
                assert delta.times is not None
                assert (delta.times.first_token is not None, delta.times.last_token) == (True, None)
            received.append(delta)
            if delta.finish_reason is not None:
                self._check_ended(delta.request_id)

    def _check_ended(self, request_id: str) -> None:
        """An ended request has the very tokens that it would have had alone, as far as it came."""
        request, last = self.requests[request_id], self.last(request_id)
        assert request_id not in self.scheduler.open_request_ids()
        tokens, reason, stop_token = expected_tokens(request, self.max_len)
        got = self.tokens(request_id)
        if last.finish_reason in (FinishReason.ABORT, FinishReason.ERROR, FinishReason.QUEUE_TIMEOUT):
            assert got == tokens[: len(got)]
            assert (last.error is not None) == (last.finish_reason is not FinishReason.ABORT)
        else:
            assert (got, last.finish_reason, last.stop_reason) == (tokens, reason, stop_token)
        deltas = self.deltas[request_id]
        assert deltas[0].num_cached_tokens == last.num_cached_tokens
        assert all(delta.num_cached_tokens == 0 for delta in deltas[1:-1])
        if got or last.finish_reason is FinishReason.LENGTH:
            self._check_logprobs(request, deltas)

    def _check_logprobs(self, request: GenerateRequest, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            wanted = request.sampling.logprobs is not None and bool(delta.token_ids)
            assert [entry.token_id for entry in delta.logprobs or []] == (delta.token_ids if wanted else [])
        first = deltas[0].prompt_logprobs
        if request.sampling.prompt_logprobs is None:
            assert first is None
        else:
            assert first is not None
            assert first[0] is None
            assert [(e.token_id, e.logprob) for e in first[1:] if e] == [
                (t, -float(p)) for p, t in enumerate(request.prompt_token_ids) if p
            ]
        assert all(delta.prompt_logprobs is None for delta in deltas[1:])
