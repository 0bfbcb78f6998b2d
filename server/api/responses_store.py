"""Which responses are kept, for whom and for how long; and which run in the background. The memory of one API process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec
from cachetools import TTLCache

from headway.server.api.protocol.parse import shortened
from headway.server.config.responses import ResponsesConfig
from headway.server.errors import QueueFull, RequestError, ResponseNotFound

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 5
_OFF = "This server keeps no responses (--enable-responses-store, with one API process only)"


class EventLog:
    """The events of a response, by their sequence numbers, for any number of readers."""

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._is_over = False
        self._news = asyncio.Event()

    @property
    def num_bytes(self) -> int:
        return sum(map(len, self._events))

    def add(self, events: Sequence[bytes]) -> None:
        self._events += events
        self._wake()

    def end(self) -> None:
        self._is_over = True
        self._wake()

    async def follow(self, start: int) -> AsyncGenerator[list[bytes], None]:
        """From number ``start`` to the end: what is there at once, then what comes."""
        while True:
            news = self._news
            if new := self._events[start:]:
                start += len(new)
                yield new
            elif self._is_over:
                return
            else:
                await news.wait()

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


class _WithOutput(msgspec.Struct):
    """Of a response, what goes on."""

    output: list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response that has ended. ``owner``: of the API key. ``history``, ``input``: JSON lists of items, those before its own input
    apart, so that it does not need its predecessors any more; ``response``: JSON. ``events``: where they may be asked for again."""

    id: str
    owner: bytes
    history: bytes
    input: bytes
    response: bytes
    is_background: bool = False
    events: EventLog | None = None

    @property
    def num_conversation_bytes(self) -> int:
        """What ``conversation`` reads."""
        return len(self.history) + len(self.input) + len(self.response)

    @property
    def num_bytes(self) -> int:
        return self.num_conversation_bytes + (0 if self.events is None else self.events.num_bytes)

    def conversation(self) -> list[dict[str, Any]]:
        """All items: what came before, the input, the output. CPU work where there is much."""
        decode = msgspec.json.decode
        return [*decode(self.history), *decode(self.input), *decode(self.response, type=_WithOutput).output]


class RunningResponse(Protocol):
    """One in the background."""

    id: str
    owner: bytes
    input: bytes
    events: EventLog | None

    def snapshot(self) -> bytes:
        """JSON of the response as it is now."""
        ...

    async def cancel(self) -> None:
        """Returns once it has ended, and is stored."""
        ...


class ResponsesStore:
    """Holds no more than the options say. An id is found by the owner only: for others there is no such response."""

    def __init__(self, config: ResponsesConfig, *, is_on: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.is_on = is_on
        self._most = config.max_stored_responses
        self._most_bytes = config.max_stored_response_bytes
        self._most_running = config.max_background_responses
        # Expires and drops the least recently used by itself; it knows one size only, so the number is looked after here.
        self._ended: TTLCache[str, StoredResponse] = TTLCache(
            self._most_bytes, config.stored_response_ttl, clock, getsizeof=lambda stored: stored.num_bytes
        )
        self._running: dict[str, RunningResponse] = {}
        self._num_opening = 0

    def check_on(self, param: str) -> None:
        """Raises RequestError that names ``param``."""
        if not self.is_on:
            raise RequestError(f"{_OFF}: leave {param} out.", param)

    @contextmanager
    def opening_in_background(self) -> Iterator[None]:
        """Around what leads to ``run``. Raises QueueFull."""
        if len(self._running) + self._num_opening >= self._most_running:
            raise QueueFull(
                f"{self._most_running} background responses are running, as many as --max-background-responses allows; try again later.",
                _RETRY_AFTER_S,
                "max_background_responses",
            )
        self._num_opening += 1
        try:
            yield
        finally:
            self._num_opening -= 1

    def run(self, response: RunningResponse) -> None:
        """``response`` is in the background until it is kept."""
        self._running[response.id] = response

    def keep(self, response: StoredResponse) -> None:
        self._running.pop(response.id, None)
        self._ended.expire()
        while len(self._ended) >= self._most:
            self._ended.popitem()
        try:
            self._ended[response.id] = response
        except ValueError:
            log.warning(
                "Response %s has %d bytes, more than --max-stored-response-bytes %d, and is not kept",
                response.id,
                response.num_bytes,
                self._most_bytes,
            )

    def find(self, owner: bytes, response_id: str) -> StoredResponse | RunningResponse:
        """Raises ResponseNotFound."""
        found = self._find(owner, response_id)
        if found is None:
            raise ResponseNotFound(f"Response with id {shortened(response_id)} not found{self._why()}.", "response_id")
        return found

    def previous(self, owner: bytes, response_id: str) -> StoredResponse:
        """Raises ResponseNotFound, RequestError."""
        self.check_on("previous_response_id")
        found = self._find(owner, response_id)
        if found is None:
            raise ResponseNotFound(
                f"Previous response with id {shortened(response_id)} not found.", "previous_response_id", "previous_response_not_found"
            )
        if not isinstance(found, StoredResponse):
            raise RequestError(f"Previous response with id {response_id!r} is still running: wait for its end.", "previous_response_id")
        return found

    def ended(self, owner: bytes, response_id: str) -> StoredResponse | None:
        found = self._find(owner, response_id)
        return found if isinstance(found, StoredResponse) else None

    def forget(self, response: StoredResponse) -> None:
        """Without a word if it is gone already."""
        self._ended.pop(response.id, None)

    async def close(self) -> None:
        """Ends what runs in the background."""
        await asyncio.gather(*(running.cancel() for running in list(self._running.values())))

    def _find(self, owner: bytes, response_id: str) -> StoredResponse | RunningResponse | None:
        found: StoredResponse | RunningResponse | None = self._running.get(response_id) or self._ended.get(response_id)
        return found if found is not None and found.owner == owner else None

    def _why(self) -> str:
        return "" if self.is_on else f": {_OFF[0].lower()}{_OFF[1:]}"
