"""How long the server waits for a client to read: one that takes nothing holds a socket and memory."""

from __future__ import annotations

import asyncio


class SlowReader:
    """Cuts a connection whose client has taken nothing of what was written to it for ``patience_s``."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, patience_s: float) -> None:
        self._transport = transport
        self._loop = loop
        self._patience_s = patience_s
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
        self._timer = self._loop.call_later(self._patience_s, self._check, self._transport.get_write_buffer_size())

    def _check(self, num_bytes_before: int) -> None:
        if self._transport.get_write_buffer_size() < num_bytes_before:
            self._wait()
        else:
            self._transport.abort()
