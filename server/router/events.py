"""A stream of events on its way through: only whole ones are passed on, so that an error can stand behind them as one of its own."""

from __future__ import annotations

from headway.server.api.paths import is_of_messages
from headway.server.api.stream import EVENTS, MESSAGE_EVENTS, TYPED_EVENTS, Framing

_ENDS = (b"\n\n", b"\r\n\r\n", b"\r\r")
_RESPONSES = "/v1/responses"
# Of an event that is not whole. A longer one is let through in pieces.
_MOST_HELD_BYTES = 256 * 1024


class WholeEvents:
    """Holds back the beginning of an event until its end has come. Servers write whole events, so mostly that is nothing."""

    def __init__(self) -> None:
        self._held = b""
        self._is_let_through = False

    @property
    def is_between_events(self) -> bool:
        """Whether what was passed on ends with a whole event: another may follow."""
        return not self._is_let_through

    def feed(self, piece: bytes) -> bytes:
        """What can be passed on."""
        text = self._held + piece if self._held else piece
        end = len(text) if text.endswith(_ENDS) else max(text.rfind(mark) + len(mark) if mark in text else 0 for mark in _ENDS)
        if len(text) - end > _MOST_HELD_BYTES:
            self._held, self._is_let_through = b"", True
            return text
        if end:
            self._is_let_through = False
        elif self._is_let_through:
            return text
        self._held = text[end:]
        return text[:end]

    def rest(self) -> bytes:
        """What is held when the stream has ended as it should."""
        rest, self._held = self._held, b""
        return rest


def framing_of(path: str) -> Framing:
    """How the API whose route has ``path`` tells an error in a stream."""
    if is_of_messages(path):
        return MESSAGE_EVENTS
    return TYPED_EVENTS if path.startswith(_RESPONSES) else EVENTS
