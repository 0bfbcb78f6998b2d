"""uvicorn's WebSocket with a limit on a message's frames: they may be empty, so the limit on a message's bytes does not hold them."""

from __future__ import annotations

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame

MAX_FRAMES = 4096


class LimitedWebSocketProtocol(WebSocketsSansIOProtocol):
    """Closes the connection with 1009 when a message has more than MAX_FRAMES frames."""

    def handle_cont(self, event: Frame) -> None:
        if self.close_sent:
            return  # more of the message that was refused
        if len(self.frames) < MAX_FRAMES:
            super().handle_cont(event)
            return
        self.conn.fail(CloseCode.MESSAGE_TOO_BIG, f"a message of more than {MAX_FRAMES} frames")
        self.handle_parser_exception()
