"""The deltas of one request on their way from the engine to the handler that waits for them."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from headway.server.types import TokenDelta


class Arrivals:
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

    def __init__(self, request_id: str, arrivals: Arrivals, close: Callable[[str, bool], None]) -> None:
        """``close`` is called with the id, and whether the request has ended by itself."""
        self._request_id = request_id
        self._arrivals = arrivals
        self._close = close
        self._finished = False

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> TokenDelta:
        if self._finished:
            raise StopAsyncIteration
        arrivals = self._arrivals
        while not arrivals.deltas:
            arrivals.arrived.clear()
            await arrivals.arrived.wait()
        return self._take()

    def take_nowait(self) -> TokenDelta | None:
        """The next delta if it is here already; None after the last one too."""
        return None if self._finished or not self._arrivals.deltas else self._take()

    def _take(self) -> TokenDelta:
        delta = self._arrivals.deltas.popleft()
        if delta.finish_reason is not None:
            self._finished = True
            self._close(self._request_id, True)
        return delta

    async def aclose(self) -> None:
        self._close(self._request_id, self._finished)
        self._finished = True
