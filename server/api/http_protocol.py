"""uvicorn's HTTP/1.1 with limits on a request's head, on a client's slowness and on open connections: without them, clients without a
key could fill the memory with heads, and use up the sockets with connections on which nothing comes."""

from __future__ import annotations

import asyncio
import functools
import http
import socket
import struct
from typing import Any, NamedTuple

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from headway.server.api.connection_limit import Allowance, ConnectionLimit
from headway.server.api.errors import error_body, error_body_on
from headway.server.api.json_text import encode
from headway.server.api.patience import SlowReader
from headway.server.api.websocket_protocol import LimitedWebSocketProtocol
from headway.server.config.connections import ConnectionsConfig

_HEALTH = (b"/ping", b"/health")
# Of a health check above the limit on connections: others wait for its place.
_SPARE_HEAD_S = 2.0


class _Refusal(NamedTuple):
    status: int
    message: str


class LimitedHttpToolsProtocol(HttpToolsProtocol):
    """Answers 431 and closes the connection when path and headers have more bytes, or headers, than ``limits`` allow.

    What is held of a head is at most that and one read of the socket. The trailers of a chunked body have the same limit.
    A client that keeps the server waiting longer than ``limits`` say is cut off. What a connection may do that ``limit`` does not
    wholly admit, Allowance says.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        *,
        limits: ConnectionsConfig,
        limit: ConnectionLimit,
    ) -> None:
        super().__init__(config, server_state, app_state)
        self._max_head_bytes, self._max_headers = limits.h11_max_incomplete_event_size, limits.h11_max_header_count
        self._header_timeout_s, self._body_timeout_s = limits.client_header_timeout_s, limits.client_body_timeout_s
        self._read_timeout_s = limits.client_read_timeout_s
        self._limit = limit
        self._allowance = Allowance.ALL
        websocket = functools.partial(LimitedWebSocketProtocol, read_timeout_s=self._read_timeout_s)
        self.ws_protocol_class = websocket  # type: ignore[assignment]  # uvicorn calls it
        self._num_pending = 0  # bytes since the parser last gave out a whole head or a piece of a body
        self._refusal: _Refusal | None = None
        self._is_owed = True  # the rest of a request, by the client
        self._has_head = False
        self._owed_timer: asyncio.TimerHandle | None = None
        self._slow_reader: SlowReader | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._slow_reader = SlowReader(transport, self.loop, self._read_timeout_s)
        self._allowance = self._limit.admit(len(self.connections))
        if self._allowance is Allowance.NOTHING:
            transport.abort()
        else:
            self._wait_for_client()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._stop_waiting()
        self._reader().resume_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader().pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader().resume_writing()

    def data_received(self, data: bytes) -> None:
        if self._refusal:
            return
        self._num_pending += len(data)
        super().data_received(data)
        if self._num_pending > self._max_head_bytes:
            self._refusal = self._refusal or self._head_too_large()
        if self._refusal:
            self._refuse(self._refusal)
        if not self._is_owed:
            self._stop_waiting()
        elif self._has_head or self._owed_timer is None:
            self._wait_for_client()

    def on_message_begin(self) -> None:
        self._is_owed, self._has_head = True, False
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        if len(self.headers) > self._max_headers:
            self._refusal = self._refusal or self._too_many_headers()

    def on_headers_complete(self) -> None:
        self._num_pending = 0
        self._has_head = True
        if self._refusal:
            return  # this request, or the one before it
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self._max_head_bytes:
            self._refusal = self._head_too_large()  # one that came in one piece
        elif self._allowance is Allowance.HEALTH and self.url.partition(b"?")[0] not in _HEALTH:
            self._refusal = self._too_many_connections()
        else:
            cycle_before = self.cycle
            super().on_headers_complete()
            if self.cycle is not cycle_before:  # it is the same at a WebSocket's handshake
                send = _WithoutChunks(self.cycle) if self.scope["http_version"] == "1.0" else self.cycle.send
                self.cycle.send = functools.partial(_send_while_open, self.cycle, send)  # type: ignore[method-assign,arg-type]
            if self._allowance is Allowance.HEALTH:
                self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        self._num_pending = 0
        if not self._refusal:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_owed = False
        if not self._refusal:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if not self._refusal:
            super().handle_websocket_upgrade()

    def send_400_response(self, msg: str) -> None:
        """uvicorn's parser has given up; ``data_received`` does the rest."""
        self._refusal = self._refusal or _Refusal(400, "The request is not valid HTTP/1.1, and its connection is closed.")

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        super()._start_asgi_task(cycle, functools.partial(_whole_or_reset, cycle, app) if cycle.scope["http_version"] == "1.0" else app)

    def close_after_answer(self) -> None:
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _reader(self) -> SlowReader:
        assert self._slow_reader is not None, "made with the connection"
        return self._slow_reader

    def _wait_for_client(self) -> None:
        self._stop_waiting()
        patience_s = self._body_timeout_s if self._has_head else self._header_timeout_s
        if self._allowance is not Allowance.ALL:
            patience_s = min(patience_s, _SPARE_HEAD_S)
        self._owed_timer = self.loop.call_later(patience_s, self._give_up)

    def _stop_waiting(self) -> None:
        if self._owed_timer is not None:
            self._owed_timer.cancel()
            self._owed_timer = None

    def _give_up(self) -> None:
        is_answering = not self._has_head and self.cycle is not None and not self.cycle.response_complete
        if self.flow.read_paused or is_answering:
            self._wait_for_client()  # it is the client who waits
        else:
            self.transport.abort()

    def _path(self) -> str:
        """As far as it has come; uvicorn begins with None."""
        return (self.url or b"").partition(b"?")[0].decode("latin-1")

    def _head_too_large(self) -> _Refusal:
        size = f"more than {self._max_head_bytes} bytes"
        return _Refusal(431, f"The request's path and headers have {size}; send fewer or shorter headers, and data in the body.")

    def _too_many_headers(self) -> _Refusal:
        return _Refusal(431, f"The request has more than {self._max_headers} headers; send fewer.")

    def _too_many_connections(self) -> _Refusal:
        most = self._limit.max_connections
        return _Refusal(503, f"This server has its {most} connections open and takes no further one now; try again soon.")

    def _refuse(self, refusal: _Refusal) -> None:
        # An answer that is under way (of an earlier request, or of this one before its trailers) is cut, not written into. But bytes
        # that are no request are taken for the end of the one before, which is told so if it has no answer yet.
        is_free = self.cycle is None or self.cycle.response_complete or (refusal.status == 400 and not self.cycle.response_started)
        if not self.transport.is_closing() and is_free:
            body = encode(error_body_on(self._path(), error_body(refusal.status, refusal.message)))
            retry = "retry-after: 1\r\n" if refusal.status == 503 else ""
            head = (
                f"HTTP/1.1 {refusal.status} {http.HTTPStatus(refusal.status).phrase}\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\n{retry}connection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


class _WithoutChunks:
    """For a client of HTTP/1.0, which knows no chunks: uvicorn would send them all the same. A stream ends with its connection."""

    def __init__(self, cycle: RequestResponseCycle) -> None:
        self._cycle = cycle
        self._send = cycle.send
        self._is_stream = False

    async def __call__(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._is_stream = all(name.lower() != b"content-length" for name, _ in message["headers"])
            if self._is_stream:
                self._cycle.chunked_encoding = False
        elif self._is_stream:
            self._cycle.expected_content_length = len(message.get("body", b""))  # what uvicorn counts against
        await self._send(message)


async def _whole_or_reset(cycle: RequestResponseCycle, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """For a client of HTTP/1.0: what ends with its connection, and breaks off, would look whole if the connection were only closed."""
    try:
        await app(scope, receive, send)
    finally:
        if cycle.response_started and not cycle.response_complete and not cycle.transport.is_closing():
            raw = cycle.transport.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # closed, it is reset
            cycle.transport.abort()


async def _send_while_open(cycle: RequestResponseCycle, send: Send, message: Message) -> None:
    """What the application sends, as long as there is somebody to send it to.

    uvloop closes the transport of a client that has reset the connection some turns before it says so; a write in between raises, and
    with it each request in the pipeline. And uvicorn tells only the last of these.
    """
    if cycle.transport.is_closing():
        cycle.disconnected = True
        cycle.message_event.set()
    else:
        await send(message)
