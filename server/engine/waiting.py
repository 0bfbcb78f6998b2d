"""The requests that wait, in the order in which a policy lets them run.

Nothing here costs more than O(log n), and looking at the head costs O(1): a step must not slow down because many wait.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from typing import Literal, Protocol

from headway.server.engine.request import Request

Policy = Literal["fcfs", "priority"]
OrderKey = tuple[float, ...]


class WaitingQueue(Protocol):
    """A request is in the queue at most once. ``head`` and ``pop`` need a queue that is not empty."""

    def __len__(self) -> int: ...

    def key(self, request: Request) -> OrderKey:
        """Sorts requests as the policy does; the lowest goes first. Unique, and constant for a request's life."""
        ...

    def push(self, request: Request) -> None: ...

    def put_back(self, request: Request) -> None:
        """Takes a preempted request back, before everything that ``key`` puts behind it."""
        ...

    def head(self) -> Request: ...

    def pop(self) -> Request: ...

    def remove(self, request: Request) -> None:
        """The request must be in the queue."""
        ...


def make_waiting_queue(policy: Policy) -> WaitingQueue:
    return FcfsQueue() if policy == "fcfs" else PriorityQueue()


class FcfsQueue:
    """First come, first served. Every operation is O(1).

    ``put_back`` goes to the front: whatever ran had arrived before everything that waits, and of several preempted in a step
    the latest is put back first.
    """

    def __init__(self) -> None:
        self._requests: OrderedDict[str, Request] = OrderedDict()

    def __len__(self) -> int:
        return len(self._requests)

    def key(self, request: Request) -> OrderKey:
        return (request.arrival_number,)

    def push(self, request: Request) -> None:
        self._requests[request.request_id] = request

    def put_back(self, request: Request) -> None:
        self._requests[request.request_id] = request
        self._requests.move_to_end(request.request_id, last=False)

    def head(self) -> Request:
        return next(iter(self._requests.values()))

    def pop(self) -> Request:
        return self._requests.popitem(last=False)[1]

    def remove(self, request: Request) -> None:
        del self._requests[request.request_id]


class PriorityQueue:
    """Lowest (priority, arrival time, arrival number) first. A heap; a removed request stays in it until it comes to the top.

    When more than half of the heap is of that kind it is rebuilt, so that removal is O(1) amortised and memory follows the length.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[OrderKey, Request]] = []
        self._present: dict[OrderKey, Request] = {}

    def __len__(self) -> int:
        return len(self._present)

    def key(self, request: Request) -> OrderKey:
        return (request.priority, request.arrival_time, request.arrival_number)

    def push(self, request: Request) -> None:
        key = self.key(request)
        self._present[key] = request
        heapq.heappush(self._heap, (key, request))

    def put_back(self, request: Request) -> None:
        self.push(request)

    def head(self) -> Request:
        while self._heap[0][0] not in self._present:
            heapq.heappop(self._heap)
        return self._heap[0][1]

    def pop(self) -> Request:
        request = self.head()
        heapq.heappop(self._heap)
        del self._present[self.key(request)]
        return request

    def remove(self, request: Request) -> None:
        del self._present[self.key(request)]
        if len(self._heap) > 2 * len(self._present) + 16:
            self._heap = list(self._present.items())
            heapq.heapify(self._heap)
