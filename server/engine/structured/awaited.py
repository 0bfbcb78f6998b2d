"""Requests whose grammar is being compiled: they wait beside the queue, where they hold up nobody."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any

from headway.server.engine.executor.base import Executor
from headway.server.engine.request import aborted
from headway.server.types import EngineRequest, GenerateRequest, TokenDelta


class AwaitedGrammars:
    """Owns these requests, and for as long as a request is open its compiled grammar, which the executor may forget otherwise.

    A request that is released is as new: whatever is true by then decides what becomes of it.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._compiling: dict[str, Future[Any]] = {}  # of each open request with a grammar
        self._held: dict[str, GenerateRequest] = {}
        self._compiled: deque[str] = deque()  # ids of those whose grammar is done, which the compiler's thread puts here

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._held)

    def holds(self, request: EngineRequest) -> bool:
        """Whether the request has to wait, and so is kept here. Raises ValueError if its grammar can't be compiled."""
        if not isinstance(request, GenerateRequest) or (grammar := request.sampling.grammar) is None:
            return False
        compiling = self._compiling.setdefault(request.request_id, self._executor.compile_grammar(grammar))
        if not compiling.done():
            request_id = request.request_id
            self._held[request_id] = request
            # Not the request itself: the future holds on to this for as long as the grammar is kept, which may be for ever.
            compiling.add_done_callback(lambda _: self._compiled.append(request_id))
            return True
        problem = compiling.exception()
        if problem is not None:
            raise ValueError(f"The grammar can't be compiled: {problem}")
        return False

    def release(self) -> list[GenerateRequest]:
        """What has nothing to wait for any more, in the order of arrival. Costs nothing for what goes on waiting."""
        released = []
        while self._compiled:
            request = self._held.pop(self._compiled.popleft(), None)
            if request is not None:  # else it was aborted
                released.append(request)
        return sorted(released, key=lambda request: request.arrival_time)

    def request_ids(self) -> list[str]:
        """Of those that wait."""
        return list(self._held)

    def abort(self, request_ids: Iterable[str]) -> list[TokenDelta]:
        """The terminal deltas of those that wait; other ids are ignored."""
        dropped = [self._held.pop(request_id) for request_id in request_ids if request_id in self._held]
        return [aborted(request) for request in dropped]

    def forget(self, request_id: str) -> None:
        """It has ended."""
        self._compiling.pop(request_id, None)
