"""What the API process sees of an engine. The protocol only; server/engine/process_client.py is the one over ZeroMQ."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from headway.server.types import (
    AdapterRef,
    EngineInfo,
    EngineStats,
    GenerateRequest,
    PoolRequest,
    SleepMode,
    SleepPart,
    SleepState,
    TokenDelta,
)


class DeltaStream(Protocol):
    """The deltas of one admitted request, in order; the last one has ``finish_reason``.

    ``aclose`` before the last delta aborts the request in the engine. Whoever called ``generate`` must exhaust or close it.
    """

    @property
    def engine_index(self) -> int:
        """Which of EngineClient.engines computes it; of several one after the other, the first."""
        ...

    def __aiter__(self) -> AsyncIterator[TokenDelta]: ...

    async def __anext__(self) -> TokenDelta: ...

    def take_nowait(self) -> TokenDelta | None:
        """The next delta if it is here already, else None: a slow reader catches up without a turn of the loop for each."""
        ...

    def time_out(self, message: str) -> None:
        """Aborts the request in the engine now, however slow the reader is, and has the stream end with FinishReason.TIMEOUT.

        Nothing happens to a request whose last delta is here already. ``message`` becomes the last delta's error.
        """
        ...

    async def aclose(self) -> None: ...


class OneEngine(Protocol):
    """One of the engines behind an EngineClient, for what is told of each."""

    @property
    def stats(self) -> EngineStats: ...

    @property
    def info(self) -> EngineInfo | None: ...

    @property
    def sleep_level(self) -> int:
        """Which memory has been given back: 0 none, 1 the KV cache, and weights to the host's memory, 2 cache and weights."""
        ...

    def watch_steps(self, watcher: Callable[[EngineStats], None]) -> None:
        """Calls ``watcher`` with the statistics after each step, from now on, on the event loop; it must be quick."""
        ...


class EngineClient(Protocol):
    """An engine, alive or starting or dead; or several as one, each request being one engine's.

    ``phase`` is "ready" once requests are served, else what start-up is doing ("loading weights"), or "dead".
    ``info`` is None before ready. ``dead_cause`` is None while it lives.
    """

    @property
    def phase(self) -> str: ...

    @property
    def info(self) -> EngineInfo | None: ...

    @property
    def stats(self) -> EngineStats:
        """Of all engines together."""
        ...

    @property
    def engines(self) -> Sequence[OneEngine]: ...

    @property
    def dead_cause(self) -> str | None: ...

    @property
    def sleep_state(self) -> SleepState: ...

    @property
    def sleep_level(self) -> int:
        """See OneEngine; of those that are asleep, the deepest."""
        ...

    @property
    def num_open_requests(self) -> int:
        """Of all API processes."""
        ...

    def seconds_since_progress(self) -> float:
        """0.0 when no work is open or the engine sleeps, else seconds since the engine last sent a step: a hung engine is not healthy."""
        ...

    def check_room(self) -> None:
        """Raises QueueFull if not even the smallest request would be admitted now."""
        ...

    def generate(self, requests: Sequence[GenerateRequest]) -> list[DeltaStream]:
        """Admits all of the requests (now, not at the first delta), or none, and returns the deltas of each.

        Raises EngineNotReady, EngineAsleep, EngineDead, QueueFull, RequestError (more at once than is ever admitted) when they are
        not admitted; an engine that dies later yields a last delta with FinishReason.ERROR and the cause.
        """
        ...

    def pool(self, requests: Sequence[PoolRequest]) -> list[DeltaStream]:
        """As ``generate``, for texts to pool: each stream has one delta."""
        ...

    async def add_adapter(self, adapter: AdapterRef, preload: bool, is_pinned: bool) -> None:
        """Returns once requests may have it; with ``preload`` once it has been read, else that is done for its first request. One that is
        pinned keeps its place on the device. Raises AdapterError (nothing has changed), EngineNotReady, EngineAsleep, EngineDead."""
        ...

    async def pin_adapter(self, adapter_id: int, preload: bool, is_pinned: bool) -> None:
        """As ``add_adapter``, of one that was added."""
        ...

    async def remove_adapter(self, adapter_id: int) -> None:
        """Every request with it must have ended, or its stream been closed. Raises as ``add_adapter`` does."""
        ...

    async def reset_prefix_cache(self, preempt_running: bool) -> bool:
        """New requests find nothing of before. Whether nothing at all of it is in use any more: with ``preempt_running`` what runs starts
        over for that. Raises EngineNotReady, EngineDead."""
        ...

    async def sleep(self, level: int, mode: SleepMode) -> None:
        """Returns once the engine sleeps, see SleepState. Raises SleepConflict (nothing has changed), SleepFailed (it goes on as before),
        EngineNotReady, EngineDead."""
        ...

    async def wake_up(self, parts: list[SleepPart] | None) -> None:
        """Wakes these parts, None: all. Raises SleepFailed (what was not woken sleeps on), EngineNotReady, EngineDead."""
        ...
