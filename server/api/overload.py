"""What a generation request meets when its head has arrived: the clock of its time limit, and a refusal where there is no room."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from headway.server.api.deadline import set_deadline
from headway.server.api.errors import response_to
from headway.server.api.media import JSON_LINES, kind_of
from headway.server.api.metrics import Metrics
from headway.server.api.paths import GENERATION_PATHS, route_path
from headway.server.engine.client import EngineClient
from headway.server.errors import HeadwayError, QueueFull

# A request to open or close a session, which costs the engine nothing, is one of these; to read so little costs nothing either.
_SMALL_BYTES = 256


class OverloadMiddleware:
    """Refuses what the engine has no room for without reading or parsing the body.

    The body is then read and thrown away by the HTTP server while it comes, so the client sees the answer and may go on using the
    connection. What passes is still checked when it is admitted, with all its choices and its prompt's length: this is the cheap
    check before.
    """

    def __init__(self, app: ASGIApp, engine: EngineClient, metrics: Metrics, request_timeout_s: float | None) -> None:
        self.app = app
        self._engine = engine
        self._metrics = metrics
        self._request_timeout_s = request_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and route_path(scope) in GENERATION_PATHS:
            try:
                self._begin(HTTPConnection(scope))
            except HeadwayError as error:
                await response_to(error)(scope, receive, send)
                return
        await self.app(scope, receive, send)

    def _begin(self, connection: HTTPConnection) -> None:
        """Raises RequestError, UnsupportedMediaType, QueueFull."""
        # The lines of a batch have their time one by one, and wait in the server until there is room (sagemaker/batch.py).
        is_batch = kind_of(connection.headers.get("content-type")) in JSON_LINES
        set_deadline(connection, None if is_batch else self._request_timeout_s)
        if is_batch or _is_small(connection):
            return
        try:
            self._engine.check_room()
        except QueueFull as full:
            self._metrics.count_rejection(full.reason)
            raise


def _is_small(connection: HTTPConnection) -> bool:
    length = connection.headers.get("content-length", "")
    return length.isascii() and length.isdigit() and int(length) <= _SMALL_BYTES
