"""uvicorn's HTTP/1.1 with a limit on a request's head: without one, a client without a key could fill the memory with it."""

from __future__ import annotations

from typing import Any

import msgspec
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from headway.server.api.errors import error_body

MAX_HEAD_BYTES = 64 * 1024
_MESSAGE = f"The request's path and headers have more than {MAX_HEAD_BYTES} bytes; send fewer or shorter headers, and data in the body."


class LimitedHttpToolsProtocol(HttpToolsProtocol):
    """Answers 431 and closes the connection when path and headers have more than MAX_HEAD_BYTES.

    What is held of a head is at most that and one read of the socket. The trailers of a chunked body have the same limit.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._num_pending = 0  # bytes since the parser last gave out a whole head or a piece of a body
        self._is_refused = False

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            return
        self._num_pending += len(data)
        super().data_received(data)
        if self._is_refused or self._num_pending > MAX_HEAD_BYTES:
            self._refuse()

    def on_headers_complete(self) -> None:
        self._num_pending = 0
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
        if not self._is_refused:
            super().on_message_complete()

    def handle_websocket_upgrade(self) -> None:
        if not self._is_refused:
            super().handle_websocket_upgrade()

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
