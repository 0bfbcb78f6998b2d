"""When a request must have ended, whatever it is doing then: its body arriving, its prompt being read, its turn in the engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from starlette.requests import HTTPConnection

from headway.server.api.protocol.parse import shortened
from headway.server.errors import RequestError, RequestTimedOut

_HEADER = "X-Request-Timeout"
_SCOPE_KEY = "headway.deadline"


@dataclass(frozen=True, slots=True)
class Deadline:
    """``arrival`` is time.time(), ``since`` the same moment and ``at`` the end in the event loop's time; ``at`` None is never.

    ``message`` says which limit it is.
    """

    arrival: float
    since: float
    at: float | None = None
    message: str = ""

    @classmethod
    def begin(cls) -> Deadline:
        """For a request that arrives now: no limit yet."""
        return cls(time.time(), _loop_time())

    def restarted(self) -> Deadline:
        """For a part of the request whose own time begins now; it has to end by the same time."""
        return replace(self, arrival=time.time(), since=_loop_time())

    def within(self, limit_s: float | None, source: str) -> Deadline:
        """The earlier of this one and ``limit_s`` after the arrival; None changes nothing."""
        if limit_s is None or (self.at is not None and self.at <= self.since + limit_s):
            return self
        message = f"The request did not end within {limit_s:g} s, the limit that {source} sets, and was ended."
        return replace(self, at=self.since + limit_s, message=message)

    def check(self) -> None:
        """Raises RequestTimedOut."""
        if self.at is not None and _loop_time() >= self.at:
            raise RequestTimedOut(self.message)

    @asynccontextmanager
    async def guard(self) -> AsyncIterator[None]:
        """Cancels what is done inside once the time is over, and raises RequestTimedOut."""
        limit = asyncio.timeout_at(self.at)
        try:
            async with limit:
                yield
        except TimeoutError:
            if limit.expired():
                raise RequestTimedOut(self.message) from None
            raise


def begun(connection: HTTPConnection, limit_s: float | None) -> Deadline:
    """For what arrives now, a request or a WebSocket's message. ``limit_s`` is --request-timeout.

    Raises RequestError for a bad X-Request-Timeout.
    """
    return Deadline.begin().within(limit_s, "--request-timeout").within(_asked_limit(connection), f"the header {_HEADER}")


def set_deadline(connection: HTTPConnection, limit_s: float | None) -> None:
    """To be called when a request's head has arrived. Raises as ``begun`` does."""
    connection.scope[_SCOPE_KEY] = begun(connection, limit_s)


def deadline_of(connection: HTTPConnection) -> Deadline:
    """What ``set_deadline`` made; where it was not called there is no limit."""
    deadline = connection.scope.get(_SCOPE_KEY)
    return deadline if isinstance(deadline, Deadline) else Deadline.begin()


def _asked_limit(connection: HTTPConnection) -> float | None:
    text = connection.headers.get(_HEADER)
    if text is None:
        return None
    try:
        limit_s = float(text)
    except ValueError:
        limit_s = 0.0
    if not 0 < limit_s < float("inf"):  # nor is NaN
        raise RequestError(f"The header {_HEADER} must be a number of seconds above 0, got {shortened(text)}.", _HEADER)
    return limit_s


def _loop_time() -> float:
    return asyncio.get_running_loop().time()
