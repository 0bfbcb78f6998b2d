"""How many requests are being answered, for /load: --enable-server-load-tracking."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from starlette.types import ASGIApp, Receive, Scope, Send

from headway.server.api.paths import route_path
from headway.server.counts import Count, Counts


class ServerLoad:
    """The count over all API processes, 0 at all times where it is not asked for.

    Only ``counted`` changes it, so whatever ends a request ends its count.
    """

    def __init__(self, is_enabled: bool, counts: Counts) -> None:
        self._step = int(is_enabled)
        self._counts = counts

    @property
    def num_requests(self) -> int:
        return self._counts.total(Count.LOAD)

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Around the work on one request, to the end of its answer."""
        self._counts.add(Count.LOAD, self._step)
        try:
            yield
        finally:
            self._counts.add(Count.LOAD, -self._step)


class LoadMiddleware:
    """Counts requests for ``paths``, from the moment that they may pass to the last byte of the answer, a stream's too."""

    def __init__(self, app: ASGIApp, load: ServerLoad, paths: Collection[str]) -> None:
        self.app = app
        self._load = load
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) not in self._paths:
            await self.app(scope, receive, send)
            return
        with self._load.counted():
            await self.app(scope, receive, send)
