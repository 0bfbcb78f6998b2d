"""Server-sent events: framing, heartbeats, and what a stream says when it fails half-way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headway.server.api.disconnect import while_connected
from headway.server.api.errors import ClientDisconnected, error_body, error_json
from headway.server.errors import HeadwayError

log = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
# Proxies and load balancers cut a silent connection after 30 to 60 s.
HEARTBEAT_S = 15.0
_HEARTBEAT = b": keep-alive\n\n"


class EventStream(Response):
    """Sends the headers at once, then ``events`` (whole events, framed) as they come, then ``[DONE]``.

    An error in ``events`` becomes an error event, since the status is out. A client that leaves ends ``events``. In all cases
    ``events`` is closed and ``on_close`` called before the call returns.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], on_close: Callable[[], Awaitable[None]], headers: Mapping[str, str] | None = None
    ) -> None:
        self.status_code = 200
        self.background = None
        self._events = events
        self._on_close = on_close
        # X-Accel-Buffering: nginx would otherwise collect the events into blocks.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._events):
                await while_connected(receive, self._send_all(scope, send))
        except ClientDisconnected:
            log.debug("Request %s: the client left its stream", scope.get("headway.request_id"))
        finally:
            # Not left to ``events``: a generator that was never begun runs no ``finally`` of its own.
            await self._on_close()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        heart = _Heart(send)
        try:
            async for event in self._events:
                heart.last_sent = time.monotonic()
                await send({"type": "http.response.body", "body": event, "more_body": True})
            end = DONE
        except HeadwayError as error:
            end = b"data: " + error_json(error) + b"\n\n" + DONE
        except Exception:  # the process edge, as in RequestIdMiddleware: the status is out, so the stream must say it
            request_id = scope.get("headway.request_id")
            log.exception("Request %s failed in its stream", request_id, extra={"request_id": request_id})
            message = f"The server failed on this request; its log says why, under request id {request_id}."
            end = event_of(error_body(500, message)) + DONE
        finally:
            heart.stop()
        await send({"type": "http.response.body", "body": end, "more_body": False})


class _Heart:
    """Sends a comment when nothing was sent for a while. One timer a stream, not one an event."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.last_sent = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(HEARTBEAT_S, self._beat)

    def _beat(self) -> None:
        silent_s = time.monotonic() - self.last_sent
        if silent_s >= HEARTBEAT_S and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._send_comment())
            silent_s = 0.0
        self._timer = self._loop.call_later(max(HEARTBEAT_S - silent_s, 0.01), self._beat)

    async def _send_comment(self) -> None:
        self.last_sent = time.monotonic()
        await self._send({"type": "http.response.body", "body": _HEARTBEAT, "more_body": True})

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()


def event_of(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
