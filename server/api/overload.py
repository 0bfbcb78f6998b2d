"""What a generation request meets when its head has arrived: the clock of its time limit, and a refusal where there is no room."""

from __future__ import annotations

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from headway.server.api.deadline import set_deadline
from headway.server.api.errors import response_to
from headway.server.api.media import JSON_LINES, kind_of
from headway.server.api.metrics import Metrics
from headway.server.api.middleware import content_length
from headway.server.api.paths import is_generation, route_path
from headway.server.engine.client import EngineClient
from headway.server.errors import HeadwayError, QueueFull

# On /invocations so small a body may open or close a session, for which there is always room.
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
        if is_generation(scope):
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
        if is_batch or _may_be_of_a_session(connection):
            return
        try:
            self._engine.check_room()
        except QueueFull as full:
            self._metrics.count_rejection(full.reason)
            raise


def _may_be_of_a_session(connection: HTTPConnection) -> bool:
    length = content_length(connection.scope)
    return route_path(connection.scope) == "/invocations" and length is not None and length <= _SMALL_BYTES
