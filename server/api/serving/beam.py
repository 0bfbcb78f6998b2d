"""Beam search over the engine: a step of it is a request of one token for each beam, cheap where the prefix cache has the rest.

To whoever opened it a search looks like ``width`` streams of the engine, each of which gives its sequence in one delta at the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import msgspec

from headway.server.api.serving.beam_search import Beam, BeamRules, BeamSearch
from headway.server.engine.client import DeltaStream, EngineClient
from headway.server.types import FinishReason, GenerateRequest, RequestTimes, SamplingParams, TokenDelta, TokenLogprobs

Holding = Callable[[], AbstractContextManager[None]]


def beam_streams(
    engine: EngineClient, requests: Sequence[GenerateRequest], width: int, length_penalty: float, holding: Holding
) -> list[DeltaStream]:
    """Begins a search for each request, with its first step admitted; returns the ``width`` streams of each.

    ``holding`` is entered for as long as a search runs: between two steps nothing of it is open in the engine.
    Raises as EngineClient.generate does.
    """
    searches = [_Search(engine, request, width, length_penalty) for request in requests]
    firsts = engine.generate([search.first_step() for search in searches])
    for search, first in zip(searches, firsts, strict=True):
        search.begin(first, holding)
    return [stream for search in searches for stream in search.streams]


class _StepFailed(Exception):
    """The engine ended a step's request without an answer."""

    def __init__(self, delta: TokenDelta) -> None:
        super().__init__(delta.error)
        self.delta = delta


class _Search:
    """One prompt's. ``outcome`` are the last deltas of its streams, which have no others."""

    def __init__(self, engine: EngineClient, request: GenerateRequest, width: int, length_penalty: float) -> None:
        self._engine = engine
        self._request = request
        sampling = request.sampling
        self._rules = BeamRules(
            width, length_penalty, _room(engine, request), sampling.min_tokens, frozenset(sampling.eos_token_ids + sampling.stop_token_ids)
        )
        self._search = BeamSearch(self._rules)
        self._first: TokenDelta | None = None
        self._last_token: float | None = None
        self._num_steps = 0
        self._task: asyncio.Task[None] | None = None
        self._steps: Sequence[DeltaStream] = ()  # under way
        self.engine_index = 0  # of the first step
        self.outcome: asyncio.Future[list[TokenDelta]] = asyncio.get_running_loop().create_future()
        self.streams: list[DeltaStream] = [_BeamStream(self, index) for index in range(width)]

    def first_step(self) -> GenerateRequest:
        return self._step(0, [], self._request.sampling.prompt_logprobs, self._request.queue_timeout_s)

    def begin(self, first: DeltaStream, holding: Holding) -> None:
        self._steps = [first]
        self.engine_index = first.engine_index
        self._task = asyncio.create_task(self._run(holding))
        self._task.add_done_callback(self._on_end)

    async def aclose(self) -> None:
        """Ends what is open of it in the engine; safe to repeat."""
        self._cancel()
        for stream in self._steps:  # a task that had no turn yet closes nothing
            await stream.aclose()

    def time_out(self, message: str) -> None:
        self._end(TokenDelta(self._request.request_id, finish_reason=FinishReason.TIMEOUT, error=message))
        self._cancel()
        for stream in self._steps:
            stream.time_out(message)

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _run(self, holding: Holding) -> None:
        try:
            with holding():
                await self._advance()
                while self._search.live:
                    self._steps = self._engine.generate(self._next_steps())
                    await self._advance()
            if not self.outcome.done():
                self.outcome.set_result(self._answers())
        except _StepFailed as failure:
            self._end(failure.delta)

    def _on_end(self, task: asyncio.Task[None]) -> None:
        """Whoever waits hears of it, whatever it was: that the next step was not admitted, or a bug."""
        if self.outcome.done():
            return
        if task.cancelled():
            self.outcome.cancel()
        elif (error := task.exception()) is not None:
            self.outcome.set_exception(error)
            self.outcome.exception()  # nobody may be waiting for it any more

    def _end(self, delta: TokenDelta) -> None:
        """Every stream ends with ``delta``."""
        if not self.outcome.done():
            self.outcome.set_result([delta] * self._rules.width)

    async def _advance(self) -> None:
        try:
            self._search.advance([await self._next_tokens(stream) for stream in self._steps])
        finally:
            for stream in self._steps:
                await stream.aclose()

    async def _next_tokens(self, stream: DeltaStream) -> TokenLogprobs:
        async for delta in stream:
            if delta.finish_reason is not None and not delta.finish_reason.is_answer:
                raise _StepFailed(delta)
            self._first = self._first or delta
            if delta.times is not None:
                self._last_token = delta.times.last_token
            if delta.logprobs:
                return delta.logprobs[0]
        raise AssertionError("a stream ends with a token or without an answer")

    def _next_steps(self) -> list[GenerateRequest]:
        self._num_steps += 1
        return [self._step(index, [at.token_id for at in beam.path()], None, None) for index, beam in enumerate(self._search.live)]

    def _step(self, index: int, token_ids: list[int], prompt_logprobs: int | None, queue_timeout_s: float | None) -> GenerateRequest:
        wanted = self._request.sampling.logprobs or 0
        sampling = SamplingParams(
            max_tokens=1,
            temperature=0.0,
            logprobs=-1 if wanted < 0 else max(self._rules.num_candidates, wanted),
            prompt_logprobs=prompt_logprobs,
        )
        step: GenerateRequest = msgspec.structs.replace(
            self._request,
            request_id=f"{self._request.request_id}.{self._num_steps}.{index}",
            prompt_token_ids=self._request.prompt_token_ids + token_ids,
            sampling=sampling,
            queue_timeout_s=queue_timeout_s,
        )
        return step

    def _answers(self) -> list[TokenDelta]:
        found = self._search.found
        # A vocabulary smaller than the beam is wide has fewer sequences: the last is told again.
        return [self._answer(found[min(index, len(found) - 1)], index) for index in range(self._rules.width)]

    def _answer(self, beam: Beam, index: int) -> TokenDelta:
        assert self._first is not None, "the first step has ended"
        sampling, path = self._request.sampling, beam.path()
        last = path[-1].token_id
        has_ended = last in self._rules.ends
        wanted = sampling.logprobs
        times = self._first.times
        return TokenDelta(
            self._request.request_id,
            token_ids=[at.token_id for at in path],
            logprobs=None if wanted is None else [_narrowed(at, wanted) for at in path],
            prompt_logprobs=self._first.prompt_logprobs,
            finish_reason=FinishReason.STOP if has_ended else FinishReason.LENGTH,
            stop_reason=last if has_ended and last not in sampling.eos_token_ids else None,
            # The prompt was computed once.
            num_cached_tokens=self._first.num_cached_tokens if index == 0 else len(self._request.prompt_token_ids),
            times=None if times is None else RequestTimes(times.arrival, times.scheduled, times.first_token, self._last_token),
        )


class _BeamStream:
    """See DeltaStream: one sequence of a search."""

    def __init__(self, search: _Search, index: int) -> None:
        self._search = search
        self._index = index
        self._has_ended = False

    @property
    def engine_index(self) -> int:
        return self._search.engine_index

    def __aiter__(self) -> _BeamStream:
        return self

    async def __anext__(self) -> TokenDelta:
        if self._has_ended:
            raise StopAsyncIteration
        deltas = await asyncio.shield(self._search.outcome)
        self._has_ended = True
        return deltas[self._index]

    def take_nowait(self) -> TokenDelta | None:
        return None

    def time_out(self, message: str) -> None:
        self._search.time_out(message)

    async def aclose(self) -> None:
        self._has_ended = True
        await self._search.aclose()


def _room(engine: EngineClient, request: GenerateRequest) -> int:
    """The most tokens of an answer. A step's prompt has to fit the KV cache, whose size alone ends other requests early."""
    assert engine.info is not None, "requests are made of a ready engine"
    capacity = engine.info.num_blocks * engine.info.block_size
    return min(request.sampling.max_tokens, capacity - len(request.prompt_token_ids) + 1)


def _narrowed(at: TokenLogprobs, num_top: int) -> TokenLogprobs:
    narrowed: TokenLogprobs = msgspec.structs.replace(at, top=at.top if num_top < 0 else at.top[:num_top])
    return narrowed
