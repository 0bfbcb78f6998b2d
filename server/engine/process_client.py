"""The API process's end of an engine process: talks to it, and ends every stream when it dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import zmq
import zmq.asyncio

from headway.server.config.overload import OverloadConfig
from headway.server.counts import Count, Counts
from headway.server.engine.admission import Admission
from headway.server.engine.calls import Calls
from headway.server.engine.client import DeltaStream
from headway.server.engine.engine_process import EngineProcess
from headway.server.engine.links import LinkAddresses
from headway.server.engine.mailbox import Mailbox
from headway.server.engine.messages import (
    AbortRequests,
    AddClient,
    AddPoolRequests,
    AddRequest,
    CallDone,
    Died,
    DropClient,
    Phase,
    Ready,
    SleepChanged,
    StepOutput,
    Stop,
    ToEngine,
    decode_from_engine,
    encode,
)
from headway.server.engine.request_stream import RequestStream
from headway.server.errors import EngineAsleep, EngineDead, EngineNotReady
from headway.server.types import (
    AdapterRef,
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerateRequest,
    PoolRequest,
    SleepMode,
    SleepPart,
    SleepState,
    TokenDelta,
)

READY = "ready"
DEAD = "dead"
_LAST_WORDS_S = 0.5  # how long those of an engine that has ended may still be on their way


class ProcessEngineClient:
    """EngineClient over ZeroMQ. Lives on one event loop; ``run`` is its receiving task."""

    def __init__(
        self,
        addresses: LinkAddresses,
        counts: Counts,
        *,
        overload: OverloadConfig,
        on_phase: Callable[[str, float], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_phase`` hears of each phase of the engine's start, "ready" included, and when it began (time.monotonic())."""
        self._counts = counts
        self._admission = Admission(overload.max_num_queued_reqs, overload.max_num_queued_tokens, counts)
        self._on_phase = on_phase
        self._now = now
        self._context = zmq.asyncio.Context()
        self._inbox = self._context.socket(zmq.PUSH)
        self._outbox: zmq.Socket[bytes] = zmq.Context.shadow(self._context).socket(zmq.PULL)
        _bind(self._inbox, addresses.inbox)
        _bind(self._outbox, addresses.outbox)
        self._mailbox: Mailbox | None = None
        self._streams: dict[str, RequestStream] = {}
        self._in_engine: set[str] = set()  # open requests whose last delta has not arrived: what progress is expected of
        self._calls = Calls(self._send)
        self._phase = "starting"
        self._info: EngineInfo | None = None
        self._stats = EngineStats()
        self._sleep_state = SleepState()
        self._dead_cause: str | None = None
        self._died_of_user_error = False
        self._last_progress = now()
        self._closing = False
        self._watchers: list[Callable[[EngineStats], None]] = []
        self.ended = asyncio.Event()  # dead, for whatever reason
        self.became_ready = asyncio.Event()

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

    @property
    def sleep_state(self) -> SleepState:
        return self._sleep_state

    @property
    def sleep_level(self) -> int:
        return self._sleep_state.given_back_level

    def seconds_since_progress(self) -> float:
        is_working = self._in_engine and self._phase == READY and not self._sleep_state.is_asleep
        return self._now() - self._last_progress if is_working else 0.0

    async def run(self, engine_end: Awaitable[str]) -> None:
        """Receives until the engine has ended; ``engine_end`` then gives the cause, for an engine that leaves no last words.

        Start it once the engine's process has been started.
        """
        gone = asyncio.ensure_future(engine_end)
        mailbox = self._mailbox = Mailbox(self._outbox)
        gone.add_done_callback(lambda _: mailbox.ring())
        try:
            has_gone = False
            while self._dead_cause is None:
                data = await mailbox.take(_LAST_WORDS_S if has_gone else None)
                if data is not None:
                    self._receive(data)
                    await asyncio.sleep(0)  # whoever waits gets each step's tokens before those of the next
                elif has_gone:
                    self.die("the engine was stopped" if self._closing else gone.result())
                else:
                    has_gone = True  # that was its ring, which must not cut short the time that last words have
        finally:
            mailbox.close()
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
                        self._admission.on_tokens(delta.request_id)
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
            case CallDone():
                self._last_progress = self._now()  # steps waited for it
                self._calls.answer(message)
            case SleepChanged(state=state):
                self._last_progress = self._now()  # of what was frozen until now
                self._sleep_state = state
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

    def check_room(self) -> None:
        """See EngineClient.check_room."""
        self._admission.check(num_requests=1, num_prompt_tokens=1)

    def generate(self, requests: Sequence[GenerateRequest]) -> list[DeltaStream]:
        """See EngineClient.generate: admission now, deltas as they come."""
        self._check_awake()
        self._admission.admit(requests)
        streams: list[DeltaStream] = [self._open(request.request_id) for request in requests]
        for request in requests:
            self._send(AddRequest(request))
        return streams

    def pool(self, requests: Sequence[PoolRequest]) -> list[DeltaStream]:
        """See EngineClient.pool."""
        self._check_awake()
        self._admission.admit(requests)
        streams: list[DeltaStream] = [self._open(request.request_id) for request in requests]
        self._send(AddPoolRequests(list(requests)))
        return streams

    def _close_stream(self, request_id: str, finished: bool) -> None:
        """Forgets the stream, and aborts the request if it had not ended."""
        self._in_engine.discard(request_id)
        self._admission.on_end(request_id)
        if self._streams.pop(request_id, None) is not None and not finished and self._dead_cause is None:
            self._send(AbortRequests([request_id]))

    def _open(self, request_id: str) -> RequestStream:
        assert request_id not in self._streams, "request ids are ours and unique"
        if not self._in_engine:
            self._last_progress = self._now()  # the clock of a hang starts with the first open request
        self._in_engine.add(request_id)
        stream = self._streams[request_id] = RequestStream(request_id, self._close_stream)
        return stream

    def _send(self, message: ToEngine) -> None:
        # No high-water mark, so this never waits; zmq.asyncio sends at once when it can.
        self._inbox.send(encode(message))

    def watch_steps(self, watcher: Callable[[EngineStats], None]) -> None:
        self._watchers.append(watcher)

    async def load_adapter(self, adapter: AdapterRef) -> None:
        self._check_awake()
        await self._calls.load_adapter(adapter)

    async def unload_adapter(self, adapter_id: int) -> None:
        self._check_ready()
        await self._calls.unload_adapter(adapter_id)

    async def reset_prefix_cache(self, preempt_running: bool) -> bool:
        self._check_ready()
        return await self._calls.reset_prefix_cache(preempt_running)

    async def sleep(self, level: int, mode: SleepMode) -> None:
        self._check_ready()
        await self._calls.sleep(level, mode)

    async def wake_up(self, parts: list[SleepPart] | None) -> None:
        self._check_ready()
        await self._calls.wake_up(parts)

    def _check_ready(self) -> None:
        if self._dead_cause is not None:
            raise EngineDead(self._dead_cause)
        if self._phase != READY:
            raise EngineNotReady(self._phase)

    def _check_awake(self) -> None:
        self._check_ready()
        if self._sleep_state.refuses_requests:
            raise EngineAsleep(self._sleep_state.level or 0)

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
        if self._mailbox is not None:
            self._mailbox.close()
        self._inbox.close()
        self._outbox.close()
        self._context.term()


def _bind(end: zmq.Socket[Any], address: str) -> None:
    end.setsockopt(zmq.SNDHWM, 0)
    end.setsockopt(zmq.RCVHWM, 0)
    end.setsockopt(zmq.LINGER, 1000)
    end.bind(address)
