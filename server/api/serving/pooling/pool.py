"""All texts of one API request: admits them to the engine together, gathers their results, counts usage."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from headway.server.api.deps import AppState
from headway.server.api.json_text import encode
from headway.server.api.off_loop import off_loop
from headway.server.api.protocol.pooling import PoolingFields
from headway.server.api.serving.call import Call
from headway.server.api.serving.causes import explained
from headway.server.api.serving.failures import failure_of
from headway.server.api.serving.request_log import log_texts
from headway.server.engine.client import DeltaStream
from headway.server.errors import QueueFull, QueueTimedOut
from headway.server.text.fitted import Fitted
from headway.server.types import FinishReason, Pooled, PoolingParams, PoolRequest, RequestTimes


class Pooling:
    """From admission to the end. Take ``results`` once; ``aclose`` in any case: before the end it aborts what is open in the engine."""

    def __init__(self, state: AppState, call: Call, requests: Sequence[PoolRequest]) -> None:
        self._state = state
        self._call = call
        self._requests = requests
        self._streams: list[DeltaStream] = []
        self._num_ended = 0
        self._ends: set[FinishReason] = set()
        self._times: RequestTimes | None = None  # of the first text
        self._unfinished = FinishReason.ABORT  # what becomes of texts that are still open at the end
        self._timer: asyncio.TimerHandle | None = None
        self._is_open = True

    @classmethod
    def open(
        cls, state: AppState, call: Call, request: PoolingFields, public_id: str, texts: Sequence[Fitted], params: PoolingParams
    ) -> Pooling:
        """Admits every text, or none. Raises RequestError, QueueFull, RequestTimedOut, EngineNotReady, EngineAsleep, EngineDead."""
        deadline = call.deadline.within(request.timeout, "the field timeout")
        if call.span is not None:
            call.span.describe_pooling(request.OPERATION, request.model or state.served.name, state.served.name, public_id)
        deadline.check()
        pooling = cls(state, call, [_engine_request(state, request, public_id, text, params, deadline.arrival) for text in texts])
        try:
            pooling._streams = state.engine.pool(pooling._requests)
        except QueueFull as error:
            state.metrics.count_rejection(error.reason)
            raise
        if deadline.at is not None:
            pooling._timer = asyncio.get_running_loop().call_at(deadline.at, pooling._time_out, deadline.message)
        if state.config.logs.enable_log_requests:
            log_texts(public_id, call.record.request_id, state.served.name, params.task, len(texts), pooling.num_tokens)
        return pooling

    @property
    def num_tokens(self) -> int:
        return sum(len(request.prompt_token_ids) for request in self._requests)

    def _time_out(self, message: str) -> None:
        self._unfinished = FinishReason.TIMEOUT
        for stream in self._streams:
            stream.time_out(message)

    async def results(self) -> list[Pooled]:
        """Of each text, once all are there. Raises GenerationFailed, AbortedBySleep, EngineAsleep, EngineDead, ServerDraining,
        RequestTimedOut, QueueTimedOut."""
        found = []
        for request, stream in zip(self._requests, self._streams, strict=True):
            delta = await anext(stream)
            assert delta.finish_reason is not None, "a text has one delta"
            self._times = self._times or delta.times
            self._record_end(request, stream, delta.finish_reason, delta.times)
            if not delta.finish_reason.is_answer:
                failure = failure_of(delta)
                if isinstance(failure, QueueTimedOut):
                    self._unfinished = FinishReason.QUEUE_TIMEOUT
                told = explained(self._state, failure)
                try:
                    raise told from (None if told is failure else failure)
                finally:
                    del told, failure  # see failure_of
            assert delta.pooled is not None, "a text that ended well has a result"
            found.append(delta.pooled)
        return found

    def _record_end(self, request: PoolRequest, stream: DeltaStream, reason: FinishReason, times: RequestTimes | None) -> None:
        self._num_ended += 1
        self._ends.add(reason)
        self._state.metrics.on_pooled(request, reason, times, stream.engine_index)

    async def aclose(self) -> None:
        """Ends whatever is open; safe to repeat."""
        if not self._is_open:
            return
        self._is_open = False
        if self._timer is not None:
            self._timer.cancel()
        open_streams = self._streams[self._num_ended :]
        for request, stream in zip(self._requests[self._num_ended :], open_streams, strict=True):
            self._record_end(request, stream, self._unfinished, None)
        if self._call.span is not None:
            self._call.span.finish_pooling(self._ends, self.num_tokens, self._times)
        self._call.record.add(self.num_tokens, 0, 0, {reason.value for reason in self._ends})
        for stream in open_streams:
            await stream.aclose()

    def usage(self) -> dict[str, Any]:
        return {"prompt_tokens": self.num_tokens, "total_tokens": self.num_tokens, "completion_tokens": 0, "prompt_tokens_details": None}


class PooledAnswer:
    """See Answer: whole, once all texts are pooled. ``write`` makes the body of the results, off the event loop where they are large."""

    is_stream = False

    def __init__(self, pooling: Pooling, write: Callable[[list[Pooled]], dict[str, Any]]) -> None:
        self._pooling = pooling
        self._write = write

    async def whole(self) -> bytes:
        results = await self._pooling.results()
        num_bytes = sum(len(pooled.data) for pooled in results)
        return await off_loop(num_bytes, lambda: encode({**self._write(results), "usage": self._pooling.usage()}))

    def chunks(self) -> Any:
        raise AssertionError("a pooled answer is no stream")

    async def aclose(self) -> None:
        await self._pooling.aclose()


def _engine_request(
    state: AppState, request: PoolingFields, public_id: str, text: Fitted, params: PoolingParams, arrival: float
) -> PoolRequest:
    return PoolRequest(
        request_id=f"{public_id}-{next(state.sequence_numbers)}",
        prompt_token_ids=text.token_ids,
        pooling=params,
        arrival_time=arrival,
        priority=request.priority,
        queue_timeout_s=state.config.overload.queue_timeout,
        num_first_segment=text.num_first_segment,
    )
