"""uvicorn's HTTP/1.1 with limits on a request's head and on a client's slowness: without them, clients without a key could fill the
memory with heads, and use up the sockets with connections on which nothing comes."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headway.server.api import patience
from headway.server.api.errors import error_body

MAX_HEAD_BYTES = 64 * 1024
_MESSAGE = f"The request's path and headers have more than {MAX_HEAD_BYTES} bytes; send fewer or shorter headers, and data in the body."


class LimitedHttpToolsProtocol(HttpToolsProtocol):
    """Answers 431 and closes the connection when path and headers have more than MAX_HEAD_BYTES.

    What is held of a head is at most that and one read of the socket. The trailers of a chunked body have the same limit.
    A client that keeps the server waiting, as patience.py says, is cut off.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._num_pending = 0  # bytes since the parser last gave out a whole head or a piece of a body
        self._is_refused = False
        self._is_owed = True  # the rest of a request, by the client
        self._has_head = False
        self._owed_timer: asyncio.TimerHandle | None = None
        self._slow_reader: patience.SlowReader | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        self._slow_reader = patience.SlowReader(transport, self.loop)
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
        if self._is_refused:
            return
        self._num_pending += len(data)
        super().data_received(data)
        if self._is_refused or self._num_pending > MAX_HEAD_BYTES:
            self._refuse()
        if not self._is_owed:
            self._stop_waiting()
        elif self._has_head or self._owed_timer is None:
            self._wait_for_client()

    def on_message_begin(self) -> None:
        self._is_owed, self._has_head = True, False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._num_pending = 0
        self._has_head = True
        if self._is_refused:
            return  # of a request behind the one that is refused
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > MAX_HEAD_BYTES:
            self._is_refused = True  # a head that came in one piece
        else:
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._num_pending = 0
        if not self._is_refused:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_owed = False
        if not self._is_refused:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if not self._is_refused:
            super().handle_websocket_upgrade()

    def close_after_answer(self) -> None:
        if self.cycle is not None:
            self.cycle.keep_alive = False

    def _reader(self) -> patience.SlowReader:
        assert self._slow_reader is not None, "made with the connection"
        return self._slow_reader

    def _wait_for_client(self) -> None:
        self._stop_waiting()
        self._owed_timer = self.loop.call_later(patience.BODY_S if self._has_head else patience.HEAD_S, self._give_up)

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

    def _refuse(self) -> None:
        self._is_refused = True
        # An answer that is under way (of an earlier request, or of this one before its trailers) is cut, not written into.
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            body = msgspec.json.encode(error_body(431, _MESSAGE))
            head = (
                "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()
