"""Pure ASGI middleware: the end of connections, request ids and the last net for bugs, HTTP metrics, the limit on bodies."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from headway.server.api.errors import BodiesTooLarge, BodyTooLarge, failure_response, response_to
from headway.server.api.paths import is_of_messages, route_path
from headway.server.api.request_record import RequestRecord
from headway.server.api.stream import STREAM_FAILURE

if TYPE_CHECKING:
    from headway.server.api.http_metrics import HttpMetrics

# Of the bodies that one process holds: a thousand connections with the largest body each would fill the memory of any machine.
MOST_BODY_BYTES = 1024**3
# So small a body is always taken, as most are.
SMALL_BODY_BYTES = 16 * 1024
_ID_HEADER = b"x-request-id"
_ANTHROPIC_ID_HEADER = b"request-id"
_STARTS = ("http.response.start", "websocket.accept", "websocket.http.response.start")
_GOOD_ID = re.compile(rb"[\x21-\x7e]{1,128}")
# Probes and scrapers would drown what the HTTP metrics are there to show.
_UNCOUNTED = frozenset({"/metrics", "/health", "/load", "/ping", "/version", "/server_info"})


class Draining(Protocol):
    @property
    def is_draining(self) -> bool: ...


class GoElsewhereMiddleware:
    """Puts ``Connection: close`` on every answer that begins while the server drains: the client's next request is for another one."""

    def __init__(self, app: ASGIApp, drain: Draining) -> None:
        self.app = app
        self._drain = drain

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def closing_send(message: Message) -> None:
            if message["type"] == "http.response.start" and self._drain.is_draining:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
            await send(message)

        await self.app(scope, receive, closing_send if scope["type"] == "http" else send)


class RequestIdMiddleware:
    """Gives each request an id and answers 500, with that id in the log, where a handler has a bug.

    A usable X-Request-Id of the client is taken over; ``put_on_answers`` sends the id back. Anthropic's routes do so in any case, in
    the header that its clients read.
    """

    def __init__(self, app: ASGIApp, put_on_answers: bool) -> None:
        self.app = app
        self._put_on_answers = put_on_answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        given = next((value for name, value in scope["headers"] if name == _ID_HEADER and _GOOD_ID.fullmatch(value)), None)
        scope["headway.request_id_is_given"] = given is not None
        request_id = scope["headway.request_id"] = given.decode() if given is not None else uuid.uuid4().hex
        scope["headway.record"] = RequestRecord(request_id)
        own_headers = [(_ID_HEADER, request_id.encode())] if self._put_on_answers else []
        if is_of_messages(route_path(scope)):
            own_headers.append((_ANTHROPIC_ID_HEADER, request_id.encode()))
        has_started = False

        async def send_with_id(message: Message) -> None:
            nonlocal has_started
            if message["type"] in _STARTS:
                has_started = True
                if own_headers:
                    message["headers"] = [*message.get("headers", ()), *own_headers]
            await send(message)

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:  # the process edge: a bug in one handler must not show its insides, nor be lost
            failure = failure_response(scope)
            if has_started or scope["type"] == "websocket":
                raise  # the server cuts the connection: the client must not take half an answer for a whole one
            await failure(scope, receive, send_with_id)


class HttpMetricsMiddleware:
    """Counts and times answers by route template; a stream's time ends with the stream."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics, template_of: Callable[[str], str]) -> None:
        self.app = app
        self._metrics = metrics
        self._template_of = template_of

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope) if scope["type"] == "http" else ""
        if not path or path.rstrip("/") in _UNCOUNTED:
            await self.app(scope, receive, send)
            return
        status, num_bytes = 500, 0
        started = time.perf_counter()

        async def counting_send(message: Message) -> None:
            nonlocal status, num_bytes
            if message["type"] == "http.response.start":
                status = message["status"]
            else:
                num_bytes += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, counting_send)
        finally:
            self._metrics.record(
                self._template_of(path),
                scope["method"],
                status,
                time.perf_counter() - started,
                request_bytes=content_length(scope) or 0,
                response_bytes=num_bytes,
                failure=scope.get(STREAM_FAILURE),
            )


class BodyLimitMiddleware:
    """413 for a body above ``max_bytes``: at once where Content-Length tells, else when a chunked body has passed the limit; 503 for
    one that would be too much beside those of other open requests.

    Holds nothing, but counts what handlers hold: a request's body counts until it is answered, since it is kept that long. Beyond the
    head, the reading handler gets BodyTooLarge or BodiesTooLarge out of ``receive``.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app = app
        self._max_bytes = max_bytes
        self._max_bytes_together = max(2 * max_bytes, MOST_BODY_BYTES)
        self._num_bytes_together = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = content_length(scope)
        if length is not None and length > self._max_bytes:
            await response_to(self._too_large(f"{length} bytes"))(scope, receive, send)
        elif length is not None and length <= SMALL_BODY_BYTES:
            await self.app(scope, receive, send)
        else:
            await self._counted(scope, receive, send)

    async def _counted(self, scope: Scope, receive: Receive, send: Send) -> None:
        num_received = 0

        async def counting_receive() -> Message:
            nonlocal num_received
            message = await receive()
            if message["type"] == "http.request":
                num_bytes = len(message.get("body", b""))
                num_received += num_bytes
                self._num_bytes_together += num_bytes
                if num_received > self._max_bytes:
                    raise self._too_large(f"more than {self._max_bytes} bytes")
                if self._num_bytes_together > self._max_bytes_together and num_received > SMALL_BODY_BYTES:
                    raise BodiesTooLarge(
                        f"The bodies of open requests have {self._max_bytes_together} bytes, as many as this server holds; try again soon."
                    )
            return message

        try:
            await self.app(scope, counting_receive, send)
        finally:
            self._num_bytes_together -= num_received

    def _too_large(self, size: str) -> BodyTooLarge:
        return BodyTooLarge(f"The request's body has {size}; this server takes {self._max_bytes} at most (--max-request-body-bytes).")


def content_length(scope: Scope) -> int | None:
    value = next((value for name, value in scope["headers"] if name == b"content-length"), None)
    return int(value) if value is not None and value.isdigit() else None
