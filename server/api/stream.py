"""Streamed answers: framing of chunks, heartbeats, and what a stream says when it fails half-way."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from headway.server.api.disconnect import while_connected
from headway.server.api.errors import ClientDisconnected, anthropic_error, error_body_of, failure_body, log_stack, status_of
from headway.server.api.json_text import encode
from headway.server.errors import HeadwayError

log = logging.getLogger(__name__)

# Where a stream leaves the status of an error that ended it, in the scope: its own status was 200.
STREAM_FAILURE = "headway.stream_failure"


@dataclass(frozen=True, slots=True)
class Framing:
    """How JSON chunks stand in a stream. ``end`` comes behind the last; ``heartbeat`` says nothing, and is empty where nothing can.

    ``error``: the chunk that ends a stream half-way, of the object that error_body makes.
    """

    media_type: str
    before: bytes
    after: bytes
    end: bytes
    heartbeat: bytes
    error: Callable[[dict[str, Any]], bytes] = encode

    def frame(self, chunks: Sequence[bytes]) -> bytes:
        return b"".join([b"".join((self.before, chunk, self.after)) for chunk in chunks])


@dataclass(frozen=True, slots=True)
class TypedEvents(Framing):
    """Events with a name, which is the chunk's ``type``: each chunk begins with it."""

    def frame(self, chunks: Sequence[bytes]) -> bytes:
        return b"".join([b"".join((b"event: ", _type_of(chunk), b"\n", self.before, chunk, self.after)) for chunk in chunks])


_TYPE = b'{"type":"'


def _type_of(chunk: bytes) -> bytes:
    assert chunk.startswith(_TYPE), "a typed event begins with its type"
    return chunk[len(_TYPE) : chunk.index(b'"', len(_TYPE))]


def json_lines(media_type: str) -> Framing:
    """One chunk a line. Nothing stands for a heartbeat: many readers take an empty line for broken JSON."""
    return Framing(media_type, b"", b"\n", b"", b"")


def _message_error(body: dict[str, Any]) -> bytes:
    return encode(anthropic_error(body))


EVENTS = Framing("text/event-stream", b"data: ", b"\n\n", b"data: [DONE]\n\n", b": keep-alive\n\n")
MESSAGE_EVENTS = TypedEvents("text/event-stream", b"data: ", b"\n\n", b"", b'event: ping\ndata: {"type":"ping"}\n\n', _message_error)


def _error_event(body: dict[str, Any]) -> bytes:
    """OpenAI's event for an error that no event of the answer itself tells."""
    error = body["error"]
    told = {"code": str(error["code"]), "message": error["message"], "param": error["param"], "sequence_number": 0}
    return encode({"type": "error", **told})


# Of OpenAI's Responses: the last event tells the end.
TYPED_EVENTS = TypedEvents(EVENTS.media_type, EVENTS.before, EVENTS.after, b"", EVENTS.heartbeat, _error_event)


class ToldInStream(HeadwayError):
    """``error`` ended a stream, whose last chunk has said so in its own words."""

    def __init__(self, error: HeadwayError) -> None:
        super().__init__(str(error))
        self.error = error


class ChunkStream(Response):
    """Sends the headers at once, then ``chunks`` as they come, then the framing's end; a heartbeat after ``silence_s``, 0 for none.

    An error in ``chunks`` becomes a last chunk, since the status is out. A client that leaves ends ``chunks``. In all cases
    ``chunks`` is closed and ``on_close`` called before the call returns.
    """

    def __init__(
        self,
        chunks: AsyncGenerator[Sequence[bytes], None],
        on_close: Callable[[], Awaitable[None]],
        framing: Framing = EVENTS,
        headers: Mapping[str, str] | None = None,
        *,
        silence_s: float,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.media_type = framing.media_type
        self._chunks = chunks
        self._on_close = on_close
        self._framing = framing
        self._silence_s = silence_s if framing.heartbeat else 0.0
        # X-Accel-Buffering: nginx would otherwise collect the events into blocks.
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with aclosing(self._chunks):
                await while_connected(receive, self._send_all(scope, send))
        except ClientDisconnected:
            log.debug("Request %s: the client left its stream", scope.get("headway.request_id"))
        finally:
            # Not left to ``chunks``: a generator that was never begun runs no ``finally`` of its own.
            await self._on_close()

    async def _send_all(self, scope: Scope, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        heart = _Heart(send, self._framing.heartbeat, self._silence_s) if self._silence_s else None
        last: list[bytes] = []
        try:
            async for chunks in self._chunks:
                if heart is not None:
                    heart.last_sent = time.monotonic()
                await send({"type": "http.response.body", "body": self._framing.frame(chunks), "more_body": True})
        except ToldInStream as told:
            log_stack(scope, told.error)
            scope[STREAM_FAILURE] = status_of(told.error)
        except HeadwayError as error:
            log_stack(scope, error)
            scope[STREAM_FAILURE] = status_of(error)
            last = [self._framing.error(error_body_of(error))]
        except Exception:  # the process edge, as in RequestIdMiddleware: the status is out, so the stream must say it
            scope[STREAM_FAILURE] = 500
            last = [self._framing.error(failure_body(str(scope.get("headway.request_id")), " in its stream"))]
        finally:
            if heart is not None:
                heart.stop()
        await send({"type": "http.response.body", "body": self._framing.frame(last) + self._framing.end, "more_body": False})


class _Heart:
    """Sends a comment when nothing was sent for ``silence_s``. One timer a stream, not one an event."""

    def __init__(self, send: Send, beat: bytes, silence_s: float) -> None:
        self._send = send
        self._bytes = beat
        self._silence_s = silence_s
        self.last_sent = time.monotonic()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._timer = self._loop.call_later(silence_s, self._beat)

    def _beat(self) -> None:
        silent_s = time.monotonic() - self.last_sent
        if silent_s >= self._silence_s and (self._task is None or self._task.done()):
            self._task = self._loop.create_task(self._send_comment())
            silent_s = 0.0
        self._timer = self._loop.call_later(max(self._silence_s - silent_s, 0.01), self._beat)

    async def _send_comment(self) -> None:
        self.last_sent = time.monotonic()
        await self._send({"type": "http.response.body", "body": self._bytes, "more_body": True})

    def stop(self) -> None:
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()
