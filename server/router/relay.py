"""An answer on its way back: piece by piece, with its end told as it was, or told to be missing."""

from __future__ import annotations

import logging
import time

from starlette.types import Scope, Send

from headway.server.api.errors import error_body_of
from headway.server.api.paths import is_of_messages
from headway.server.api.stream import EVENTS
from headway.server.errors import HeadwayError, ServerDraining, ServerLost
from headway.server.router.events import WholeEvents, framing_of
from headway.server.router.fleet import Fleet
from headway.server.router.headers import Pairs, to_client
from headway.server.router.metrics import RouterMetrics
from headway.server.router.servers import Server
from headway.server.router.upstream import Answer, ServerBroke

log = logging.getLogger(__name__)

_LOST = ServerLost("The server that answered this request broke off in the middle of its answer.")


class Relay:
    """Of one answer. ``asked``: the request's headers; ``spent_s``: what the router took before it asked, None if it is not to count."""

    def __init__(self, server: Server, answer: Answer, asked: Pairs, fleet: Fleet, metrics: RouterMetrics, spent_s: float | None) -> None:
        self._server = server
        self._answer = answer
        self._asked = asked
        self._fleet = fleet
        self._metrics = metrics
        self._spent_s = spent_s

    async def run(self, scope: Scope, send: Send) -> None:
        """To the answer's end. If the server breaks off, or the router stops, a stream of events ends with one that says so, and of any
        other body the connection is cut: the client must not take half of it for the whole."""
        began = time.perf_counter()
        headers = to_client(self._answer.headers, self._asked, self._not_passed(scope["path"]))
        await send({"type": "http.response.start", "status": self._answer.status, "headers": headers})
        if self._spent_s is not None:
            self._metrics.observe_overhead(self._spent_s + time.perf_counter() - began)
        events = WholeEvents() if self._is_stream() else None
        status: int | str = "left"  # by the client, unless the end is reached
        try:
            await self._send_all(events, send)
            status = self._answer.status
            self._server.health.answered()
        except ServerBroke as problem:
            status = "broken"
            self._fleet.broke(self._server, str(problem))
            log.warning("Request %s: %s: %s", scope["headway.request_id"], self._server.url, problem)
            await _end_with(_LOST, events, scope, send)
        except ServerDraining as problem:
            status = "cut"
            await _end_with(problem, events, scope, send)
        finally:
            self._metrics.count_answer(self._server.url, status)

    async def _send_all(self, events: WholeEvents | None, send: Send) -> None:
        while piece := await self._answer.next_piece():
            ready = piece if events is None else events.feed(piece)
            if ready:
                await send({"type": "http.response.body", "body": ready, "more_body": True})
        rest = b"" if events is None else events.rest()
        await send({"type": "http.response.body", "body": rest, "more_body": False})

    def _not_passed(self, path: str) -> list[bytes]:
        """What RequestIdMiddleware puts on every answer; of 204 and 304 a length, to which uvicorn would hold a body."""
        ids = [b"x-request-id", b"request-id"] if is_of_messages(path) else [b"x-request-id"]
        return [*ids, b"content-length"] if self._answer.status in (204, 304) else ids

    def _is_stream(self) -> bool:
        """Of events that another can be put behind: one that is compressed, or whose length is told, can't be made longer."""
        kind = (self._answer.header("content-type") or "").partition(";")[0].strip().lower()
        return kind == EVENTS.media_type and not self._answer.header("content-encoding") and not self._answer.header("content-length")


async def _end_with(error: HeadwayError, events: WholeEvents | None, scope: Scope, send: Send) -> None:
    """Says it in a stream of events. Else the application returns without an end, and uvicorn cuts the connection."""
    if events is not None and events.is_between_events:
        framing = framing_of(scope["path"])
        last = framing.frame([framing.error(error_body_of(error))]) + framing.end
        await send({"type": "http.response.body", "body": last, "more_body": False})
