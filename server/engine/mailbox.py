"""The receiving end of a ZeroMQ socket on an event loop."""

from __future__ import annotations

import asyncio

import zmq


class Mailbox:
    """Gives messages in order, to one reader, on the event loop that runs when it is made. It is closed before the socket is.

    zmq.asyncio does the same with two futures and a poll a message, and who also waits for something else needs a task a message.
    """

    def __init__(self, end: zmq.Socket[bytes]) -> None:
        self._end = end
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._is_rung = self._is_closed = False
        descriptor = end.getsockopt(zmq.FD)
        assert isinstance(descriptor, int)
        self._descriptor = descriptor
        self._loop.add_reader(descriptor, self._wake)

    async def take(self, at_most_s: float | None = None) -> bytes | None:
        """The next message; None where there is none and ``ring`` was called, or the time is over, and once it is closed."""
        timer = self._loop.call_later(at_most_s, self.ring) if at_most_s is not None else None
        try:
            while not self._is_closed:
                try:
                    return self._end.recv(zmq.NOBLOCK)
                except zmq.Again:
                    pass
                if self._is_rung:
                    self._is_rung = False
                    return None
                # The descriptor tells that something has changed since a look that found nothing, which need not be a message.
                self._waiter = self._loop.create_future()
                await self._waiter
            return None
        finally:
            if timer is not None:
                timer.cancel()

    def ring(self) -> None:
        """Has ``take``, or the next one, return without a message if there is none."""
        self._is_rung = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def close(self) -> None:
        """Safe to repeat."""
        if not self._is_closed:
            self._is_closed = True
            self._loop.remove_reader(self._descriptor)
            self._wake()
