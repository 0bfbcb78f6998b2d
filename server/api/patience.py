"""How long the server waits for the other side of a connection: clients that send or take nothing hold a socket and memory each."""

from __future__ import annotations

import asyncio

# The times that nginx has for the same (client_header_timeout, client_body_timeout), and twice its send_timeout.
HEAD_S = 60.0  # for a whole head, from the connection or the head's first byte
BODY_S = 60.0  # for the next piece of a body
READER_S = 120.0  # for taking anything of what has been written


class SlowReader:
    """Cuts a connection whose client has taken nothing of what was written to it for READER_S."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """The transport's buffer is full."""
        self._wait()

    def resume_writing(self) -> None:
        """It is no more, or the connection is lost."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait(self) -> None:
        self._timer = self._loop.call_later(READER_S, self._check, self._transport.get_write_buffer_size())

    def _check(self, num_bytes_before: int) -> None:
        if self._transport.get_write_buffer_size() < num_bytes_before:
            self._wait()
        else:
            self._transport.abort()
