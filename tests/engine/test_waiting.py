"""The order of those who wait."""

from __future__ import annotations

import random

import pytest

from headway.server.engine.request import Request
from headway.server.engine.waiting import FcfsQueue, PriorityQueue, WaitingQueue, make_waiting_queue
from headway.server.types import GenerateRequest, SamplingParams


def make_request(number: int, priority: int = 0, arrival_time: float = 0.0) -> Request:
    return Request.of(GenerateRequest(f"r{number}", [1], SamplingParams(), arrival_time, priority), number)


def drain(queue: WaitingQueue) -> list[str]:
    ids = []
    while queue:
        head = queue.head()
        assert queue.pop() is head
        ids.append(head.request_id)
    return ids


def test_policies() -> None:
    assert isinstance(make_waiting_queue("fcfs"), FcfsQueue)
    assert isinstance(make_waiting_queue("priority"), PriorityQueue)


def test_fcfs_ignores_priority() -> None:
    queue = FcfsQueue()
    for number in range(4):
        queue.push(make_request(number, priority=-number))
    assert drain(queue) == ["r0", "r1", "r2", "r3"]


def test_fcfs_takes_the_preempted_back_in_front() -> None:
    queue = FcfsQueue()
    for number in range(4):
        queue.push(make_request(number))
    first, second = queue.pop(), queue.pop()
    queue.put_back(second)
    queue.put_back(first)
    assert drain(queue) == ["r0", "r1", "r2", "r3"]


def test_priority_then_arrival_time_then_arrival() -> None:
    queue = PriorityQueue()
    for request in (
        make_request(0, 1, 1.0),
        make_request(1, 0, 2.0),
        make_request(2, 0, 1.0),
        make_request(3, 0, 1.0),
        make_request(4, -5, 9.0),
    ):
        queue.push(request)
    assert drain(queue) == ["r4", "r2", "r3", "r1", "r0"]


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_removal_anywhere(policy: str) -> None:
    rng = random.Random(3)
    queue = make_waiting_queue(policy)  # type: ignore[arg-type]
    present: dict[str, Request] = {}
    for number in range(500):
        request = make_request(number, rng.randint(-2, 2), float(rng.randint(0, 5)))
        queue.push(request)
        present[request.request_id] = request
        if rng.random() < 0.4:
            removed = present.pop(rng.choice(sorted(present)))
            queue.remove(removed)
        if present and rng.random() < 0.2:
            popped = queue.pop()
            assert queue.key(popped) == min(queue.key(request) for request in present.values())
            if rng.random() < 0.5:
                queue.put_back(popped)
            else:
                del present[popped.request_id]
        assert len(queue) == len(present)
    assert drain(queue) == [request.request_id for request in sorted(present.values(), key=queue.key)]


def test_removed_requests_do_not_pile_up() -> None:
    queue = PriorityQueue()
    for number in range(10_000):
        request = make_request(number)
        queue.push(request)
        if number:
            queue.remove(request)
    assert len(queue) == 1
    assert len(queue._heap) < 40
