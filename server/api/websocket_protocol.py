"""uvicorn's WebSocket with a limit on a message's frames, which may be empty, so that the limit on its bytes does not hold them; and
on what is written for a client that does not read."""

from __future__ import annotations

from asyncio import BaseTransport, Transport
from typing import Any, cast

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

from headway.server.api.patience import SlowReader

MAX_FRAMES = 4096


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """Closes the connection with 1009 when a message has more than MAX_FRAMES frames.

    While a client does not read, its pings are not answered one by one, which would fill the memory: the last one is, once it reads
    (RFC 6455, 5.5.3). One that does not read for long is cut off.
    """

    _slow_reader: SlowReader
    _late_pong = b""

    def __init__(self, *args: Any, read_timeout_s: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_timeout_s = read_timeout_s

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(transport)
        self._slow_reader = SlowReader(cast(Transport, transport), self.loop, self._read_timeout_s)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._slow_reader.resume_writing()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._slow_reader.pause_writing()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._slow_reader.resume_writing()
        if self._late_pong and not self.transport.is_closing():
            pong, self._late_pong = self._late_pong, b""
            self.transport.write(pong)

    def handle_ping(self) -> None:
        if self.writable.is_set():
            super().handle_ping()
        elif pongs := self.conn.data_to_send():
            self._late_pong = pongs[-1]

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return  # more of the message that was refused
        if len(self.frames) < MAX_FRAMES:
            super().handle_cont(event)
            return
        self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"a message of more than {MAX_FRAMES} frames")
        self.handle_parser_exception()
