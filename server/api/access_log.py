"""The access log: a line for each answer, with the ids by which callers and SageMaker follow a request.

Not uvicorn's, which knows no ids and cannot be told more.
"""

from __future__ import annotations

import logging
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headway.server.api.paths import route_path
from headway.server.api.sagemaker.attributes import ids_in
from headway.server.config.logs import LogConfig

log = logging.getLogger(__name__)

# Probes and scrapes, several a second, would bury the requests.
_UNLOGGED = frozenset({"/ping", "/health", "/metrics", "/load"})


def has_access_log(logs: LogConfig) -> bool:
    return not logs.disable_uvicorn_access_log and logs.uvicorn_log_level in ("info", "debug", "trace")


class AccessLogMiddleware:
    """Outermost, so that it sees every answer; the request's id is in the scope by the time that an answer starts."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or route_path(scope) in _UNLOGGED:
            await self.app(scope, receive, send)
            return

        async def logging_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                _log(scope, message["status"])
            await send(message)

        await self.app(scope, receive, logging_send)


def _log(scope: Scope, status: int) -> None:
    ids = {"request_id": scope["headway.request_id"], **ids_in(Headers(scope=scope))}
    client = "{}:{}".format(*scope["client"]) if scope.get("client") else "unix"  # a Unix socket's clients have no address
    query = scope["query_string"].decode("latin-1")
    path = quote(scope["path"]) + (f"?{query}" if query else "")
    log.info('%s - "%s %s HTTP/%s" %d', client, scope["method"], path, scope["http_version"], status, extra=ids)
