"""ORCA: a client, mostly a load balancer, asks in a header how loaded the server is, and is told in a header of the answer."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headway.server.api.paths import route_path
from headway.server.engine.client import EngineClient
from headway.server.types import EngineStats
from headway.server.words import cut

log = logging.getLogger(__name__)

_FORMAT_HEADER = b"endpoint-load-metrics-format"
_LOAD_HEADER = b"endpoint-load-metrics"


class OrcaMiddleware:
    """Puts the load on successful answers of ``paths``, where the request asks for it; on a stream as it is when the stream begins."""

    def __init__(self, app: ASGIApp, engine: EngineClient, paths: Collection[str]) -> None:
        self.app = app
        self._engine = engine
        self._paths = paths
        self._has_warned = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = self._asked_format(scope) if scope["type"] == "http" else None
        if asked is None or route_path(scope) not in self._paths:
            await self.app(scope, receive, send)
            return

        async def send_with_load(message: Message) -> None:
            if message["type"] == "http.response.start" and message["status"] == 200:
                load = load_report(self._engine.stats, asked)
                message["headers"] = [*message["headers"], (_LOAD_HEADER, load.encode())]
            await send(message)

        await self.app(scope, receive, send_with_load)

    def _asked_format(self, scope: Scope) -> str | None:
        """TEXT or JSON; None where nothing, or nothing that we know, is asked for."""
        given = next((value for name, value in scope["headers"] if name == _FORMAT_HEADER), None)
        if given is None:
            return None
        asked: str = given.decode("latin-1").strip()
        if asked.upper() in ("TEXT", "JSON"):
            return asked.upper()
        if not self._has_warned:
            self._has_warned = True  # once in all: every request of that client will ask for it
            log.warning("A client asks for its load report as %r, which is neither TEXT nor JSON; it gets none", cut(asked, 50))
        return None


def load_report(stats: EngineStats, form: str) -> str:
    """The header's value, in vLLM's words. ``form`` is TEXT or JSON."""
    loads = {"kv_cache_usage_perc": float(stats.kv_cache_usage), "num_requests_waiting": float(stats.num_waiting)}
    if form == "JSON":
        return f"JSON {json.dumps({'named_metrics': loads})}"
    return f"TEXT {', '.join(f'named_metrics.{name}={value}' for name, value in loads.items())}"
