"""The API process's end of an engine process: talks to it, and ends every stream when it dies."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable

import zmq
import zmq.asyncio

from headway.server.counts import Count, Counts
from headway.server.engine.calls import Calls
from headway.server.engine.engine_process import EngineProcess
from headway.server.engine.links import LinkAddresses
from headway.server.engine.messages import (
    AbortRequests,
    AdapterDone,
    AddClient,
    AddRequest,
    Died,
    DropClient,
    LoadAdapter,
    Phase,
    Ready,
    ResetPrefixCache,
    StepOutput,
    Stop,
    ToEngine,
    UnloadAdapter,
    decode_from_engine,
    encode,
)
from headway.server.errors import AdapterError, EngineDead, EngineNotReady, QueueFull
from headway.server.types import AdapterRef, EngineInfo, EngineStats, FinishReason, GenerateRequest, TokenDelta

READY = "ready"
DEAD = "dead"


class _Stream:
    """The deltas of one open request, between the receiver and the request's handler."""

    __slots__ = ("arrived", "deltas")

    def __init__(self) -> None:
        self.deltas: deque[TokenDelta] = deque()
        self.arrived = asyncio.Event()

    def put(self, delta: TokenDelta) -> None:
        self.deltas.append(delta)
        self.arrived.set()


class RequestStream:
    """Async iterator over one request's deltas. ``aclose`` before the end aborts the request; it is safe to repeat."""

    def __init__(self, client: ProcessEngineClient, request_id: str, stream: _Stream) -> None:
        self._client = client
        self._request_id = request_id
        self._stream = stream
        self._finished = False

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> TokenDelta:
        if self._finished:
            raise StopAsyncIteration
        stream = self._stream
        while not stream.deltas:
            stream.arrived.clear()
            await stream.arrived.wait()
        return self._take()

    def take_nowait(self) -> TokenDelta | None:
        """The next delta if it is here already; None after the last one too."""
        return None if self._finished or not self._stream.deltas else self._take()

    def _take(self) -> TokenDelta:
        delta = self._stream.deltas.popleft()
        if delta.finish_reason is not None:
            self._finished = True
            self._client.close_stream(self._request_id, finished=True)
        return delta

    async def aclose(self) -> None:
        self._client.close_stream(self._request_id, self._finished)
        self._finished = True


class ProcessEngineClient:
    """EngineClient over ZeroMQ. Lives on one event loop; ``run`` is its receiving task."""

    def __init__(
        self,
        addresses: LinkAddresses,
        counts: Counts,
        *,
        max_open_requests: int | None,
        on_phase: Callable[[str, float], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_phase`` hears of each phase of the engine's start, "ready" included, and when it began (time.monotonic())."""
        self._counts = counts
        self._on_phase = on_phase
        self._max_open = max_open_requests
        self._now = now
        self._context = zmq.asyncio.Context()
        self._inbox = self._bind(zmq.PUSH, addresses.inbox)
        self._outbox = self._bind(zmq.PULL, addresses.outbox)
        self._streams: dict[str, _Stream] = {}
        self._in_engine: set[str] = set()  # open requests whose last delta has not arrived: what progress is expected of
        self._calls = Calls()
        self._phase = "starting"
        self._info: EngineInfo | None = None
        self._stats = EngineStats()
        self._dead_cause: str | None = None
        self._died_of_user_error = False
        self._last_progress = now()
        self._closing = False
        self._watchers: list[Callable[[EngineStats], None]] = []
        self.ended = asyncio.Event()  # dead, for whatever reason
        self.became_ready = asyncio.Event()

    def _bind(self, kind: int, address: str) -> zmq.asyncio.Socket:
        end = self._context.socket(kind)
        end.setsockopt(zmq.SNDHWM, 0)
        end.setsockopt(zmq.RCVHWM, 0)
        end.setsockopt(zmq.LINGER, 1000)
        end.bind(address)
        return end

    @property
    def phase(self) -> str:
        return self._phase

    def set_phase(self, phase: str) -> None:
        """For what happens before the engine process exists: fetching the model."""
        if self._phase not in (READY, DEAD):
            self._phase = phase

    @property
    def info(self) -> EngineInfo | None:
        return self._info

    @property
    def stats(self) -> EngineStats:
        return self._stats

    @property
    def dead_cause(self) -> str | None:
        return self._dead_cause

    @property
    def died_of_user_error(self) -> bool:
        return self._died_of_user_error

    @property
    def num_open_requests(self) -> int:
        return self._counts.total(Count.OPEN_REQUESTS)

    def seconds_since_progress(self) -> float:
        return self._now() - self._last_progress if self._in_engine and self._phase == READY else 0.0

    async def run(self, engine_end: Awaitable[str]) -> None:
        """Receives until the engine has ended; ``engine_end`` then gives the cause, for an engine that leaves no last words.

        Start it once the engine's process has been started.
        """
        gone = asyncio.ensure_future(engine_end)
        try:
            while self._dead_cause is None:
                arrival = asyncio.ensure_future(self._outbox.recv())
                await asyncio.wait({arrival, gone}, return_when=asyncio.FIRST_COMPLETED)
                if arrival.done():
                    self._receive(arrival.result())
                    continue
                # Its last words may still be in the socket.
                with contextlib.suppress(TimeoutError):
                    self._receive(await asyncio.wait_for(arrival, 0.5))
                    continue
                self.die("the engine was stopped" if self._closing else gone.result())
        finally:
            gone.cancel()

    def _receive(self, data: bytes) -> None:
        message = decode_from_engine(data)
        match message:
            case StepOutput(deltas=deltas, stats=stats):
                self._last_progress = self._now()
                self._stats = stats
                for watcher in self._watchers:
                    watcher(stats)
                for delta in deltas:
                    stream = self._streams.get(delta.request_id)
                    if stream is not None:
                        stream.put(delta)
                        if delta.finish_reason is not None:
                            self._in_engine.discard(delta.request_id)
            case Phase(name=name, since=since):
                self._phase = name
                self._on_phase(name, since)
            case Ready(info=info, since=since):
                self._info = info
                self._phase = READY
                self._on_phase(READY, since)
                self._last_progress = self._now()
                self.became_ready.set()
            case AdapterDone(call_id=call_id, refusal=refusal):
                self._last_progress = self._now()  # steps waited for it
                self._calls.answer(call_id, AdapterError(refusal) if refusal is not None else None)
            case Died(cause=cause, is_user_error=is_user_error):
                self._died_of_user_error = is_user_error
                self.die(cause)

    def die(self, cause: str) -> None:
        """Ends every open stream with the cause; the first cause stays."""
        if self._dead_cause is not None:
            return
        self._dead_cause = cause
        self._phase = DEAD
        for request_id, stream in self._streams.items():
            stream.put(TokenDelta(request_id, finish_reason=FinishReason.ERROR, error=str(EngineDead(cause))))
        self._calls.fail_all(EngineDead(cause))
        self.ended.set()

    def generate(self, request: GenerateRequest) -> RequestStream:
        """See EngineClient.generate: admission now, deltas as they come."""
        return RequestStream(self, request.request_id, self._open(request))

    def close_stream(self, request_id: str, finished: bool) -> None:
        """For RequestStream: forgets the stream, and aborts the request if it had not ended."""
        self._in_engine.discard(request_id)
        if self._streams.pop(request_id, None) is None:
            return
        self._counts.set(Count.OPEN_REQUESTS, len(self._streams))
        if not finished and self._dead_cause is None:
            self._send(AbortRequests([request_id]))

    def _open(self, request: GenerateRequest) -> _Stream:
        self._check_ready()
        self._count_in()
        assert request.request_id not in self._streams, "request ids are ours and unique"
        if not self._in_engine:
            self._last_progress = self._now()  # the clock of a hang starts with the first open request
        self._in_engine.add(request.request_id)
        stream = self._streams[request.request_id] = _Stream()
        self._send(AddRequest(request))
        return stream

    def _count_in(self) -> None:
        """First counted, then checked: so two processes that ask at the same time can't both have the last place."""
        self._counts.add(Count.OPEN_REQUESTS, 1)
        if self._max_open is not None and self._counts.total(Count.OPEN_REQUESTS) > self._max_open:
            self._counts.add(Count.OPEN_REQUESTS, -1)
            raise QueueFull(f"{self._max_open} requests are open, as many as --max-num-queued-reqs allows: try again later")

    def _send(self, message: ToEngine) -> None:
        # No high-water mark, so this never waits; zmq.asyncio sends at once when it can.
        self._inbox.send(encode(message))

    def watch_steps(self, watcher: Callable[[EngineStats], None]) -> None:
        self._watchers.append(watcher)

    async def load_adapter(self, adapter: AdapterRef) -> None:
        self._check_ready()
        call_id, answered = self._calls.begin()
        self._send(LoadAdapter(call_id, adapter))
        await answered

    async def unload_adapter(self, adapter_id: int) -> None:
        self._check_ready()
        call_id, answered = self._calls.begin()
        self._send(UnloadAdapter(call_id, adapter_id))
        await answered

    def _check_ready(self) -> None:
        if self._dead_cause is not None:
            raise EngineDead(self._dead_cause)
        if self._phase != READY:
            raise EngineNotReady(self._phase)

    async def reset_prefix_cache(self) -> None:
        self._send(ResetPrefixCache())

    def drop_client(self, index: int) -> None:
        """For the leader: has the engine abort what an API process that has ended left open."""
        self._send(DropClient(index))

    def add_client(self, index: int) -> None:
        """For the leader: has the engine talk to the process that takes the place of one that was dropped."""
        self._send(AddClient(index))

    async def stop(self, process: EngineProcess, patience_s: float = 2.0) -> None:
        """For the leader: asks the engine to stop, waits, makes sure. Open requests end with FinishReason.ABORT."""
        self._closing = True
        if self._phase == READY:
            self._send(Stop())
        else:
            patience_s = 0  # while it loads it does not listen, and holds nothing that could be lost
        await asyncio.to_thread(process.kill, patience_s)
        self.close()

    def close(self) -> None:
        """Ends what is open; the engine, if it lives, goes on."""
        self.die("the server is stopping")
        self._inbox.close()
        self._outbox.close()
        self._context.term()
