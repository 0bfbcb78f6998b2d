"""An EngineClient without an engine, for tests of the API room alone: it "generates" a text that the test chooses."""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import msgspec

from headway.server.engine.client import DeltaStream
from headway.server.errors import AdapterError, EngineAsleep, EngineDead, EngineNotReady, HeadwayError, QueueFull
from headway.server.stats import AdapterStats
from headway.server.text.tokenizer import Tokenizer
from headway.server.types import (
    AdapterRef,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerateRequest,
    Pooled,
    PoolingInfo,
    PoolRequest,
    RequestTimes,
    SleepMode,
    SleepPart,
    SleepState,
    TokenDelta,
    TokenLogprobs,
)

VECTORS = PoolingInfo(("embed", "token_embed"), dimension=4)
LABELS = PoolingInfo(("classify",), dimension=0, labels=("good", "bad", "ugly"))
CROSS_ENCODER = PoolingInfo(("classify",), dimension=0, labels=("relevance",))


def fake_info(vocab_size: int, max_model_len: int = 256, pooling: PoolingInfo | None = None) -> EngineInfo:
    return EngineInfo(
        device="none",
        architecture="fake",
        dtype="float32",
        weight_format="fp32",
        max_model_len=max_model_len,
        vocab_size=vocab_size,
        block_size=16,
        num_blocks=1024,
        max_num_seqs=64,
        max_num_batched_tokens=512,
        weight_bytes=0,
        kv_cache_bytes=0,
        phases={},
        pooling=pooling,
    )


class FakeEngine:
    """Answers every request with ``text``'s tokens, ``tokens_per_delta`` at a time, then the end-of-sequence token.

    - ``text`` may be a function of the request; ``is_endless`` repeats it until max_tokens.
    - ``is_bursty``: whatever follows the first delta has arrived with it, as after a reader was held up.
    - ``gate``: while cleared, no delta is given out. ``fail_after`` n deltas, a request ends with ``error``.
    - ``queue_timed_out``: requests end as if they had not been scheduled in time.
    - ``max_open`` requests at most; a further one is told to come back in ``retry_after_s``. ``on_admit`` is called with each.
    - ``adapters`` are those that were added; while ``adapter_gate`` is cleared none is preloaded. A directory with a file named
      "refused" can't be, for the reason in the file. Those that requests have are loaded.
    - ``sleep_gate``: while cleared, no call of ``sleep`` or ``wake_up`` ends. ``sleep_error`` is what they raise then.
    - ``own_logprob(request)`` is the logprob of each token of its answer, where logprobs are asked for.
    - ``has_blocks_in_use``: resetting the prefix cache is not complete unless what runs is preempted.
    - With ``info.pooling`` it pools: see ``pooled_of``. ``texts`` are what came in for that.
    - ``requests`` and ``aborted_ids`` are what came in; ``adapter_log`` is what was added, pinned and removed.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        text: str | Callable[[GenerateRequest], str] = "hello world",
        *,
        max_model_len: int = 256,
        pooling: PoolingInfo | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self.text = text
        self.tokens_per_delta = 1
        self.is_endless = False
        self.is_bursty = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.ends_by: FinishReason | None = None  # in the place of an end-of-sequence token
        self.fail_after: int | None = None
        self.error = "something broke"
        self.phase = "ready"
        self.info: EngineInfo | None = fake_info(tokenizer.vocab_size, max_model_len, pooling)
        self.stats = EngineStats(num_blocks_total=1024)
        self.dead_cause: str | None = None
        self.stalled_s = 0.0
        self.max_open: int | None = None
        self.retry_after_s = 3
        self.queue_timed_out = False
        self.on_admit: Callable[[], None] = lambda: None
        self.adapters: dict[int, AdapterRef] = {}
        self._loaded: set[int] = set()
        self.adapter_gate = asyncio.Event()
        self.adapter_gate.set()
        self.num_loads_begun = 0
        self.adapter_log: list[str] = []
        self.sleep_state = SleepState()
        self.sleep_gate = asyncio.Event()
        self.sleep_gate.set()
        self.sleep_error: HeadwayError | None = None
        self.sleep_log: list[tuple[object, ...]] = []
        self.own_logprob: Callable[[GenerateRequest], float] = lambda request: -1.5
        self.has_blocks_in_use = False
        self.requests: list[GenerateRequest] = []
        self.texts: list[PoolRequest] = []
        self.open_ids: set[str] = set()
        self.open_adapters: dict[str, int | None] = {}  # open request -> its adapter's id
        self.aborted_ids: list[str] = []
        self.watchers: list[Callable[[EngineStats], None]] = []

    def begin_anew(self, text: str) -> None:
        """For the next test that shares it: ``text``, a token at a time, and nothing came in yet."""
        self.text = text
        self.tokens_per_delta = 1
        self.requests.clear()

    @property
    def num_open_requests(self) -> int:
        return len(self.open_ids)

    @property
    def engines(self) -> Sequence[FakeEngine]:
        return (self,)

    @property
    def sleep_level(self) -> int:
        return self.sleep_state.given_back_level

    def seconds_since_progress(self) -> float:
        return self.stalled_s

    def check_room(self, num_requests: int = 1) -> None:
        if self.max_open is not None and len(self.open_ids) + num_requests > self.max_open:
            raise QueueFull("The queue is full: try again later.", self.retry_after_s, "max_num_queued_reqs")

    def generate(self, requests: Sequence[GenerateRequest]) -> list[DeltaStream]:
        self._check_alive()
        if self.sleep_state.refuses_requests:
            raise EngineAsleep(self.sleep_state.level or 0)
        self.check_room(len(requests))
        return [self._open(request) for request in requests]

    def pool(self, requests: Sequence[PoolRequest]) -> list[DeltaStream]:
        self._check_alive()
        if self.sleep_state.refuses_requests:
            raise EngineAsleep(self.sleep_state.level or 0)
        self.check_room(len(requests))
        assert self.info is not None
        assert self.info.pooling is not None, "only a model that pools is asked to"
        assert all(request.pooling.task in self.info.pooling.tasks for request in requests)
        self.texts += requests
        self.open_ids |= {request.request_id for request in requests}
        self.on_admit()
        return [FakePoolStream(self, request) for request in requests]

    def _open(self, request: GenerateRequest) -> DeltaStream:
        assert request.request_id not in self.open_ids, "request ids must be unique"
        assert request.adapter_id is None or request.adapter_id in self.adapters, "a request's adapter must be known"
        self.requests.append(request)
        self.open_adapters[request.request_id] = request.adapter_id
        if request.adapter_id is not None:
            self._loaded.add(request.adapter_id)
            self.tell_adapters()
        self.open_ids.add(request.request_id)
        self.on_admit()
        return FakeStream(self, request)

    async def add_adapter(self, adapter: AdapterRef, preload: bool, is_pinned: bool) -> None:
        self._check_alive()
        assert adapter.id not in self.adapters, "ids are given once"
        if preload:
            await self._load(adapter)
        self.adapters[adapter.id] = adapter
        self.adapter_log.append(f"+{adapter.name}{' pinned' * is_pinned}")

    async def pin_adapter(self, adapter_id: int, preload: bool, is_pinned: bool) -> None:
        self._check_alive()
        if preload:
            await self._load(self.adapters[adapter_id])
        self.adapter_log.append(f"{'' if is_pinned else 'un'}pin {self.adapters[adapter_id].name}")

    async def remove_adapter(self, adapter_id: int) -> None:
        self._check_alive()
        if adapter_id in self.open_adapters.values():
            raise AdapterError("Requests with the adapter are open.")
        self._loaded.discard(adapter_id)
        self.adapter_log.append(f"-{self.adapters.pop(adapter_id).name}")
        self.tell_adapters()

    async def _load(self, adapter: AdapterRef) -> None:
        self.num_loads_begun += 1
        await self.adapter_gate.wait()
        self._check_alive()
        refusal = Path(adapter.path) / "refused"
        if refusal.exists():
            raise AdapterError(refusal.read_text())
        self._loaded.add(adapter.id)
        self.tell_adapters()

    def tell_adapters(self) -> None:
        running = {adapter_id for adapter_id in self.open_adapters.values() if adapter_id is not None}
        stats = AdapterStats(tuple(sorted(self._loaded | running)), tuple(sorted(running)))
        self.stats = msgspec.structs.replace(self.stats, adapters=stats)

    def _check_alive(self) -> None:
        if self.dead_cause is not None:
            raise EngineDead(self.dead_cause)
        if self.phase != "ready":
            raise EngineNotReady(self.phase)

    def watch_steps(self, watcher: Callable[[EngineStats], None]) -> None:
        self.watchers.append(watcher)

    async def reset_prefix_cache(self, preempt_running: bool) -> bool:
        self._check_alive()
        self.sleep_log.append(("reset", preempt_running))
        return preempt_running or not self.has_blocks_in_use

    async def sleep(self, level: int, mode: SleepMode) -> None:
        await self._change_sleep("sleep", level, mode)
        self.sleep_state = SleepState(level, ("weights", "kv_cache") if level else ("scheduling",))

    async def wake_up(self, parts: list[SleepPart] | None) -> None:
        await self._change_sleep("wake_up", parts)
        left = tuple(part for part in self.sleep_state.parts if parts is not None and part not in parts)
        self.sleep_state = SleepState(self.sleep_state.level, left) if left else SleepState()

    async def _change_sleep(self, *call: object) -> None:
        self._check_alive()
        self.sleep_log.append(call)
        await self.sleep_gate.wait()
        if self.sleep_error is not None:
            raise self.sleep_error

    def die(self, cause: str) -> None:
        self.dead_cause, self.phase = cause, "dead"
        self.gate.set()

    def output_of(self, request: GenerateRequest) -> list[int]:
        text = self.text if isinstance(self.text, str) else self.text(request)
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        sampling = request.sampling
        if self.is_endless:
            return (ids * (sampling.max_tokens // len(ids) + 1))[: sampling.max_tokens]
        return [*ids, *sampling.eos_token_ids[:1]][: sampling.max_tokens]


class FakeStream:
    engine_index = 0

    def __init__(self, engine: FakeEngine, request: GenerateRequest | PoolRequest) -> None:
        self._engine = engine
        self._request = request
        self._output = engine.output_of(request) if isinstance(request, GenerateRequest) else []
        self._num_given = 0
        self._num_deltas = 0
        self._started = time.time()
        self._ended = False
        self._timed_out: str | None = None
        self._overdue = asyncio.Event()

    def __aiter__(self) -> AsyncIterator[TokenDelta]:
        return self

    async def __anext__(self) -> TokenDelta:
        if self._ended:
            raise StopAsyncIteration
        await asyncio.sleep(0.001 if self._engine.is_endless else 0)
        await self._gate_or_time_out()
        return self._next()

    async def _gate_or_time_out(self) -> None:
        if self._engine.gate.is_set():
            return
        waits = [asyncio.ensure_future(event.wait()) for event in (self._engine.gate, self._overdue)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()

    def take_nowait(self) -> TokenDelta | None:
        return self._next() if self._engine.is_bursty and not self._ended else None

    def time_out(self, message: str) -> None:
        if not self._ended:
            self._timed_out = message
            self._engine.aborted_ids.append(self._request.request_id)
            self._engine.open_ids.discard(self._request.request_id)
            self._overdue.set()

    async def aclose(self) -> None:
        if not self._ended and self._timed_out is None:
            self._engine.aborted_ids.append(self._request.request_id)
        self._end()

    def _end(self) -> None:
        self._ended = True
        self._engine.open_ids.discard(self._request.request_id)
        if self._engine.open_adapters.pop(self._request.request_id, None) is not None:
            self._engine.tell_adapters()

    def _failure(self) -> TokenDelta | None:
        engine, request = self._engine, self._request
        if engine.dead_cause is not None:
            self._end()
            return TokenDelta(request.request_id, finish_reason=FinishReason.ERROR, error=str(EngineDead(engine.dead_cause)))
        if self._timed_out is not None:
            self._end()
            return TokenDelta(request.request_id, finish_reason=FinishReason.TIMEOUT, error=self._timed_out)
        if engine.queue_timed_out:
            self._end()
            return TokenDelta(
                request.request_id,
                finish_reason=FinishReason.QUEUE_TIMEOUT,
                error="it waited in vain",
                times=RequestTimes(request.arrival_time, None, None, None),
            )
        if engine.fail_after == self._num_deltas:
            self._end()
            return TokenDelta(request.request_id, finish_reason=FinishReason.ERROR, error=engine.error)
        return None

    def _next(self) -> TokenDelta:
        if (failure := self._failure()) is not None:
            return failure
        engine, request = self._engine, self._request
        assert isinstance(request, GenerateRequest)
        ids = self._output[self._num_given : self._num_given + engine.tokens_per_delta]
        num_cached = min(4, len(request.prompt_token_ids) - 1) if self._num_deltas == 0 else 0
        delta = TokenDelta(request.request_id, ids, num_cached_tokens=num_cached)
        if self._num_deltas == 0:
            delta.times = RequestTimes(request.arrival_time, self._started, self._started, None)
        sampling = request.sampling
        if sampling.logprobs is not None:
            own = engine.own_logprob(request)
            delta.logprobs = [fake_logprobs(token_id, sampling.logprobs, own) for token_id in ids]
        if sampling.prompt_logprobs is not None and self._num_deltas == 0:
            rest = request.prompt_token_ids[1:]
            delta.prompt_logprobs = [None, *(fake_logprobs(token_id, sampling.prompt_logprobs) for token_id in rest)]
        self._num_given += len(ids)
        self._num_deltas += 1
        if self._num_given >= len(self._output):
            delta.finish_reason = engine.ends_by or FinishReason.STOP if ids and ids[-1] in sampling.eos_token_ids else FinishReason.LENGTH
            now = time.time()
            delta.times = RequestTimes(request.arrival_time, self._started, self._started, now)
            self._end()
        return delta


class FakePoolStream(FakeStream):
    def _next(self) -> TokenDelta:
        if (failure := self._failure()) is not None:
            return failure
        engine, request = self._engine, self._request
        assert isinstance(request, PoolRequest)
        assert engine.info is not None
        assert engine.info.pooling is not None
        self._end()
        times = RequestTimes(request.arrival_time, self._started, None, time.time())
        pooled = pooled_of(request, engine.info.pooling)
        return TokenDelta(request.request_id, finish_reason=FinishReason.STOP, times=times, pooled=pooled)


def pooled_of(request: PoolRequest, info: PoolingInfo) -> Pooled:
    """A vector counts the token ids by their remainder; a pair's score is the share of its second text that is in its first, too;
    label i's is i over the text's length."""
    ids, asked = request.prompt_token_ids, request.pooling
    if asked.task == "classify":
        if info.scores_pairs:
            split = request.num_first_segment or len(ids)
            return _packed([sum(token in ids[:split] for token in ids[split:]) / max(len(ids) - split, 1)])
        return _packed([i / len(ids) for i in range(len(info.labels))])
    rows = [ids] if asked.task == "embed" else [[token] for token in ids]
    vectors = [[float(sum(token % info.dimension == i for token in row)) for i in range(info.dimension)] for row in rows]
    if asked.use_activation is not False:
        vectors = [[x / sum(y * y for y in vector) ** 0.5 for x in vector] for vector in vectors]
    return _packed([x for vector in vectors for x in vector[: asked.dimensions]], len(vectors))


def _packed(values: list[float], num_rows: int = 1) -> Pooled:
    return Pooled(struct.pack(f"<{len(values)}f", *values), num_rows)


def fake_logprobs(token_id: int, num_top: int, logprob: float = -1.5) -> TokenLogprobs:
    """The token is second; the likeliest are 0, 1, 2 .."""
    return TokenLogprobs(token_id, logprob, 2, [(other, -0.5 - other) for other in range(num_top)])
