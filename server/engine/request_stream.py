"""The deltas of one open request, between the receiver of the engine's messages and the request's handler."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from headway.server.types import FinishReason, TokenDelta


class RequestStream:
    """See DeltaStream. ``put`` is the receiver's.

    ``close`` (request id, whether the last delta was taken) is called at the end, and again with each ``aclose``; a request that has
    not ended is aborted by it.
    """

    def __init__(self, request_id: str, close: Callable[[str, bool], None], engine_index: int = 0) -> None:
        self.engine_index = engine_index
        self._request_id = request_id
        self._close = close
        self._deltas: deque[TokenDelta] = deque()
        self._waiter: asyncio.Future[None] | None = None  # of the reader, while it waits; not an Event, which costs twice as much a token
        self._finished = False

    def put(self, delta: TokenDelta) -> None:
        self._deltas.append(delta)
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():  # else the reader was cancelled
            waiter.set_result(None)

    def __aiter__(self) -> RequestStream:
        return self

    async def __anext__(self) -> TokenDelta:
        if self._finished:
            raise StopAsyncIteration
        while not self._deltas:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        return self._take()

    def take_nowait(self) -> TokenDelta | None:
        """The next delta if it is here already; None after the last one too."""
        return None if self._finished or not self._deltas else self._take()

    def _take(self) -> TokenDelta:
        delta = self._deltas.popleft()
        if delta.finish_reason is not None:
            self._finished = True
            self._close(self._request_id, True)
        return delta

    def time_out(self, message: str) -> None:
        is_last_here = bool(self._deltas) and self._deltas[-1].finish_reason is not None
        if not self._finished and not is_last_here:
            self._close(self._request_id, False)
            self.put(TokenDelta(self._request_id, finish_reason=FinishReason.TIMEOUT, error=message))

    async def aclose(self) -> None:
        self._close(self._request_id, self._finished)
        self._finished = True
