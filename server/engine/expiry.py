"""Requests that may wait only so long to be scheduled, in the order in which their time is over."""

from __future__ import annotations

import heapq
from typing import Protocol

from headway.server.types import FinishReason, RequestTimes, TokenDelta


class Expiring(Protocol):
    """A request of the scheduler's, or one that has yet to get there."""

    @property
    def request_id(self) -> str: ...

    @property
    def arrival_time(self) -> float: ...

    @property
    def queue_timeout_s(self) -> float | None: ...


def queue_timeout_text(request: Expiring, now: float) -> str:
    return f"The request has waited {now - request.arrival_time:.1f} s without being scheduled (--queue-timeout): try again later."


def queue_timeout(request: Expiring, now: float) -> TokenDelta:
    """The terminal delta of a request that no scheduler has seen."""
    times = RequestTimes(request.arrival_time, None, None, None)
    text = queue_timeout_text(request, now)
    return TokenDelta(request.request_id, finish_reason=FinishReason.QUEUE_TIMEOUT, error=text, times=times)


class Expiry:
    """A heap; what is discarded stays in it until it comes to the top, or until more than half of the heap is of that kind.

    So a step in which nothing is due costs O(1), and memory follows the number of requests that wait.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, str]] = []
        self._due: dict[str, float] = {}

    def add(self, request: Expiring) -> None:
        """One without a time limit is not taken."""
        if request.queue_timeout_s is not None:
            due = self._due[request.request_id] = request.arrival_time + request.queue_timeout_s
            heapq.heappush(self._heap, (due, request.request_id))

    def discard(self, request: Expiring) -> None:
        """It has been scheduled, or has ended. Safe to repeat."""
        if self._due.pop(request.request_id, None) is not None and len(self._heap) > 2 * len(self._due) + 16:
            self._heap = [(due, request_id) for request_id, due in self._due.items()]
            heapq.heapify(self._heap)

    def take_due(self, now: float) -> list[str]:
        """The ids of those whose time is over at ``now``, once."""
        ids = []
        while self._heap and self._heap[0][0] <= now:
            due, request_id = heapq.heappop(self._heap)
            if self._due.get(request_id) == due:
                del self._due[request_id]
                ids.append(request_id)
        return ids
