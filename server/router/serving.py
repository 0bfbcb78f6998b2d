"""What one process of the router serves with, put together."""

from __future__ import annotations

import asyncio
import logging
import socket
from typing import TYPE_CHECKING

from headway.server.api.http_server import LimitedServer, close_after_answers
from headway.server.counts import Count, Counts
from headway.server.router.app import RouterApp
from headway.server.router.config import RouterConfig
from headway.server.router.fleet import Fleet
from headway.server.router.metrics import RouterMetrics
from headway.server.router.pairing import Pairing
from headway.server.router.policies.choice import POLICIES
from headway.server.router.probing import Prober
from headway.server.router.proxy import Proxy
from headway.server.router.sources.base import Listing
from headway.server.router.upstream import Upstream

if TYPE_CHECKING:
    from headway.server.api.tls.server_tls import ServerTls

_MOST_WEBSOCKET_BYTES = 1024  # each is refused
# uvicorn's word for an answer that the router ends before it is complete, of which relay.py has said why.
_CUT_SHORT = "ASGI callable returned without completing response."


class Router:
    """``fleet``: the servers that answer clients; ``prefill``: those that prepare for them, if there is such a half. Raises ConfigError
    when made with files that can't be used."""

    def __init__(self, config: RouterConfig, listing: Listing, counts: Counts | None = None) -> None:
        self._counts = counts or Counts.alone()
        tls = server_tls(config)
        upstream = self._upstream = Upstream(config.upstream)
        self.metrics = RouterMetrics(self._counts)
        self.fleet = self._fleet(config, "least-load" if config.routing.is_paired else config.routing.policy)
        self.prefill = self._fleet(config, "prefix") if config.routing.is_paired else None
        pairing = Pairing(config.routing, self.prefill, upstream, self.metrics) if self.prefill is not None else None
        self._prober = Prober(config.upstream, [self.fleet, self.prefill] if self.prefill is not None else [self.fleet], upstream)
        proxy = Proxy(config.routing, self.fleet, upstream, self.metrics, pairing)
        self.app = RouterApp(config, self.fleet, self.prefill, proxy, self.metrics, self._counts)
        self._server = LimitedServer(
            self.app, config.connections, max_websocket_bytes=_MOST_WEBSOCKET_BYTES, log_level="warning", lifespan="off", tls=tls
        )
        self.change_servers(listing)

    def _fleet(self, config: RouterConfig, policy: str) -> Fleet:
        return Fleet(POLICIES[policy](), self.metrics, config.upstream.eject_after)

    def change_servers(self, listing: Listing) -> None:
        """These are there from now on."""
        self.fleet.update(listing.serving)
        if self.prefill is not None:
            self.prefill.update(listing.prefill)
        self._prober.hurry()

    @property
    def num_open(self) -> int:
        return self._counts.of(self._counts.index, Count.OPEN_REQUESTS)

    async def serve(self, listeners: list[socket.socket]) -> None:
        """Until ``stop``."""
        logging.getLogger("uvicorn.error").addFilter(_is_news)
        async with self._upstream:
            probing = asyncio.create_task(self._prober.run())
            try:
                await self._server.serve(sockets=listeners)
            finally:
                probing.cancel()

    async def ready(self) -> None:
        """Returns once it listens."""
        while not self._server.started:
            await asyncio.sleep(0.01)

    def begin_drain(self) -> None:
        self.app.drain()
        close_after_answers(self._server)

    async def stop(self) -> None:
        """What is still open is told so, in its stream."""
        await self._upstream.close()
        self._server.should_exit = True


def server_tls(config: RouterConfig) -> ServerTls | None:
    """Of the router's own port. Raises ConfigError."""
    if not config.tls.is_on:
        return None
    from headway.server.api.tls.server_tls import ServerTls  # cryptography

    return ServerTls(config.tls)


def _is_news(record: logging.LogRecord) -> bool:
    return record.getMessage() != _CUT_SHORT
