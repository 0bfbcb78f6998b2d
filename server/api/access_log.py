"""The access log: a line for each answer once it has ended, with the ids by which callers and SageMaker follow a request.

Not uvicorn's, which knows no ids and cannot be told more.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headway.server.api.paths import route_path
from headway.server.api.sagemaker.attributes import ids_in
from headway.server.config.logs import LogConfig
from headway.server.log import ACCESS_LOG

log = logging.getLogger(ACCESS_LOG)

_CLIENT_LEFT = 499  # before there was an answer
_OF_QUERIES = "%!#$&'()*+,/:;=?@[]\\^`{|}~"  # all that is visible but the double quote and angle brackets
_OF_ADDRESSES = ":[]%"
_STATUSES = {"websocket.accept": 101, "websocket.close": 403}


def has_access_log(logs: LogConfig) -> bool:
    return not logs.disable_uvicorn_access_log and logs.uvicorn_log_level in ("info", "debug", "trace")


class AccessLogMiddleware:
    """Around all that answers; RequestIdMiddleware, inside of it, puts the id and the record into the scope."""

    def __init__(self, app: ASGIApp, unlogged: Sequence[str]) -> None:
        self.app = app
        self._unlogged = frozenset(path.rstrip("/") or "/" for path in unlogged)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or (route_path(scope).rstrip("/") or "/") in self._unlogged:
            await self.app(scope, receive, send)
            return
        status: int | None = None
        started = time.perf_counter()

        async def watching_send(message: Message) -> None:
            nonlocal status
            if status is None:  # of a WebSocket's messages, the handshake's only
                status = message.get("status") or _STATUSES.get(message["type"])
            await send(message)

        try:
            await self.app(scope, receive, watching_send)
        finally:
            _log(scope, status or _CLIENT_LEFT, time.perf_counter() - started)


def _log(scope: Scope, status: int, seconds: float) -> None:
    told = {"request_id": scope["headway.request_id"], **ids_in(Headers(scope=scope)), "api_key": scope.get("headway.key_name", "")}
    told |= {"status": status, "duration_s": round(seconds, 4), **scope["headway.record"].told()}
    # A Unix socket's clients have no address. One that a proxy tells is whatever the client told the proxy.
    client = quote("{}:{}".format(*scope["client"]), safe=_OF_ADDRESSES) if scope.get("client") else "unix"
    # Quotes would end the request's part of the line, for whoever reads it by pattern.
    query = quote(scope["query_string"], safe=_OF_QUERIES)
    path = quote(scope["path"]) + (f"?{query}" if query else "")
    asked = f"{scope['method']} {path} HTTP/{scope['http_version']}" if scope["type"] == "http" else f"WebSocket {path}"
    log.info('%s - "%s" %d', client, asked, status, extra=told)
