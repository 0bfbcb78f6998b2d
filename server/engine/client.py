"""What the API process sees of an engine. The protocol only; server/engine/process_client.py is the one over ZeroMQ."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from headway.server.types import EngineInfo, EngineStats, GenerateRequest, TokenDelta


class EngineClient(Protocol):
    """An engine, alive or starting or dead.

    ``phase`` is "ready" once requests are served, else what start-up is doing ("loading weights"), or "dead".
    ``info`` is None before ready. ``dead_cause`` is None while it lives.
    """

    @property
    def phase(self) -> str: ...

    @property
    def info(self) -> EngineInfo | None: ...

    @property
    def stats(self) -> EngineStats: ...

    @property
    def dead_cause(self) -> str | None: ...

    @property
    def num_open_requests(self) -> int: ...

    def seconds_since_progress(self) -> float:
        """0.0 when no work is open, else seconds since the engine last sent a step: a hung engine is not healthy."""
        ...

    def generate(self, request: GenerateRequest) -> AsyncIterator[TokenDelta]:
        """Yields the request's deltas; the last one has ``finish_reason``. Closing the iterator early aborts the request.

        Raises EngineNotReady, EngineDead, QueueFull before the first delta; an engine that dies later yields a last delta
        with FinishReason.ERROR and the cause.
        """
        ...

    async def reset_prefix_cache(self) -> None: ...
