"""The API process's end of one engine process: talks to it, and ends every stream when it dies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import zmq
import zmq.asyncio

from headway.server.engine.admission import Admission
from headway.server.engine.calls import Calls
from headway.server.engine.data_parallel.policy import Load
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
from headway.server.errors import EngineDead
from headway.server.types import (
    EngineInfo,
    EngineStats,
    FinishReason,
    GenerateRequest,
    PoolRequest,
    SleepState,
    TokenDelta,
)

_LAST_WORDS_S = 0.5  # how long those of an engine that has ended may still be on their way


class ProcessEngineClient:
    """One of the engines of data_parallel/client.py, over ZeroMQ. Lives on one event loop; ``run`` is its receiving task."""

    def __init__(
        self,
        addresses: LinkAddresses,
        admission: Admission,
        index: int,
        *,
        on_phase: Callable[[str, float], None],
        on_ready: Callable[[float], None],
        on_end: Callable[[str], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """``on_phase`` hears of each phase of the engine's start, and when it began (time.monotonic()); ``on_end`` of the cause of its
        death. ``admission`` counts the requests of all engines: whoever opens them here has admitted them."""
        self.index = index
        self._admission = admission
        self._on_phase = on_phase
        self._on_ready = on_ready
        self._on_end = on_end
        self._now = now
        self._context = zmq.asyncio.Context()
        self._inbox = self._context.socket(zmq.PUSH)
        self._outbox: zmq.Socket[bytes] = zmq.Context.shadow(self._context).socket(zmq.PULL)
        _bind(self._inbox, addresses.inbox)
        _bind(self._outbox, addresses.outbox)
        self._mailbox: Mailbox | None = None
        self._streams: dict[str, RequestStream] = {}
        self._in_engine: set[str] = set()  # open requests whose last delta has not arrived: what progress is expected of
        self._num_sent = 0  # requests, since the start
        self._num_received = 0  # of these, by the engine when it last reported
        self.calls = Calls(self._send)
        self.info: EngineInfo | None = None  # None before it is ready
        self.stats = EngineStats()
        self.sleep_state = SleepState()
        self.died_of_user_error = False
        self._is_dead = False
        self._last_progress = now()
        self._closing = False
        self._watchers: list[Callable[[EngineStats], None]] = []

    @property
    def sleep_level(self) -> int:
        return self.sleep_state.given_back_level

    @property
    def load(self) -> Load:
        """Its work: what it reported last, and what it had not received by then."""
        stats = self.stats
        return Load(stats.num_running, stats.num_waiting, self._num_sent - self._num_received, stats.kv_cache_usage)

    def seconds_since_progress(self) -> float:
        is_working = self._in_engine and not self._is_dead and not self.sleep_state.is_asleep
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
            while not self._is_dead:
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
            case StepOutput(deltas=deltas, stats=stats, num_received=num_received):
                self._last_progress = self._now()
                self.stats, self._num_received = stats, num_received
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
                self._on_phase(name, since)
            case Ready(info=info, since=since):
                self.info = info
                self._last_progress = self._now()
                self._on_ready(since)
            case CallDone():
                self._last_progress = self._now()  # steps waited for it
                self.calls.answer(message)
            case SleepChanged(state=state):
                self._last_progress = self._now()  # of what was frozen until now
                self.sleep_state = state
            case Died(cause=cause, is_user_error=is_user_error):
                self.died_of_user_error = is_user_error
                self.die(cause)

    def die(self, cause: str) -> None:
        """Ends every open stream with the cause, and tells it; the first cause stays."""
        if self._is_dead:
            return
        self._is_dead = True
        for request_id, stream in self._streams.items():
            stream.put(TokenDelta(request_id, finish_reason=FinishReason.ERROR, error=str(EngineDead(cause))))
        self.calls.fail_all(EngineDead(cause))
        self._on_end(cause)

    def generate(self, request: GenerateRequest) -> RequestStream:
        """Sends an admitted request; its deltas come by the stream."""
        stream = self.open(request.request_id)
        self._send(AddRequest(request))
        return stream

    def pool(self, requests: list[PoolRequest]) -> None:
        """Sends admitted texts, in one message, whose streams are open."""
        self._send(AddPoolRequests(requests))

    def open(self, request_id: str) -> RequestStream:
        """The stream of an admitted request, which is then sent."""
        assert request_id not in self._streams, "request ids are ours and unique"
        if not self._in_engine:
            self._last_progress = self._now()  # the clock of a hang starts with the first open request
        self._in_engine.add(request_id)
        self._num_sent += 1
        stream = self._streams[request_id] = RequestStream(request_id, self._close_stream, self.index)
        return stream

    def _close_stream(self, request_id: str, finished: bool) -> None:
        """Forgets the stream, and aborts the request if it had not ended."""
        self._in_engine.discard(request_id)
        self._admission.on_end(request_id)
        if self._streams.pop(request_id, None) is not None and not finished and not self._is_dead:
            self._send(AbortRequests([request_id]))

    def _send(self, message: ToEngine) -> None:
        # No high-water mark, so this never waits; zmq.asyncio sends at once when it can.
        self._inbox.send(encode(message))

    def watch_steps(self, watcher: Callable[[EngineStats], None]) -> None:
        self._watchers.append(watcher)

    def drop_client(self, index: int) -> None:
        """For the leader: has the engine abort what an API process that has ended left open."""
        self._send(DropClient(index))

    def add_client(self, index: int) -> None:
        """For the leader: has the engine talk to the process that takes the place of one that was dropped."""
        self._send(AddClient(index))

    def begin_stop(self) -> None:
        """For the leader: its end is wanted from now on, and is asked for if it listens."""
        self._closing = True
        if self.info is not None and not self._is_dead:
            self._send(Stop())

    def close(self) -> None:
        """To be called once it is dead, or called so."""
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
