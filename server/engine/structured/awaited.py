"""Requests whose grammar is being compiled: they wait beside the queue, where they hold up nobody."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from headway.server.engine.executor.base import Executor
from headway.server.engine.request import Request
from headway.server.types import EngineRequest, FinishReason, GenerateRequest, TokenDelta


@dataclass(frozen=True, slots=True)
class _Held:
    request: GenerateRequest
    compiling: Future[Any]


class AwaitedGrammars:
    """Owns these requests. One that is released is as new: whatever is true by then decides what becomes of it."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._held: dict[str, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def holds(self, request: EngineRequest) -> bool:
        """Whether the request has to wait, and so is kept here. Raises ValueError if its grammar can't be compiled."""
        if not isinstance(request, GenerateRequest) or (grammar := request.sampling.grammar) is None:
            return False
        compiling = self._executor.compile_grammar(grammar)
        if compiling.done():
            problem = compiling.exception()
            if problem is not None:
                raise ValueError(f"The grammar can't be compiled: {problem}")
            return False
        self._held[request.request_id] = _Held(request, compiling)
        return True

    def release(self) -> list[GenerateRequest]:
        """What has nothing to wait for any more, in the order of arrival."""
        done = [request_id for request_id, held in self._held.items() if held.compiling.done()]
        return [self._held.pop(request_id).request for request_id in done]

    def request_ids(self) -> list[str]:
        return list(self._held)

    def abort(self, request_ids: Sequence[str]) -> list[TokenDelta]:
        """The terminal deltas of those that are held; other ids are ignored."""
        dropped = [self._held.pop(request_id).request for request_id in request_ids if request_id in self._held]
        return [TokenDelta(request.request_id, finish_reason=FinishReason.ABORT, times=Request.of(request).times) for request in dropped]
