"""Requests that wait too long to be scheduled."""

from __future__ import annotations

from typing import Any

import pytest
from paged_runner import SchedulerDriver

from headway.server.engine.expiry import Expiry
from headway.server.engine.request import Request
from headway.server.types import FinishReason, GenerateRequest, SamplingParams


def request(name: str, arrival: float = 0.0, timeout_s: float | None = 10.0) -> Request:
    return Request.of(GenerateRequest(name, [1], SamplingParams(), arrival, queue_timeout_s=timeout_s))


def test_in_the_order_of_their_time_and_once() -> None:
    expiry = Expiry()
    for name, arrival in (("b", 2.0), ("a", 1.0), ("c", 3.0)):
        expiry.add(request(name, arrival))
    expiry.add(request("patient", timeout_s=None))
    assert expiry.take_due(10.9) == []
    assert expiry.take_due(12.0) == ["a", "b"]
    assert expiry.take_due(1e9) == ["c"]
    assert expiry.take_due(1e9) == []


def test_what_is_discarded_is_never_due_and_takes_no_room() -> None:
    expiry = Expiry()
    kept = request("kept", arrival=5.0)
    expiry.add(kept)
    for index in range(1000):
        gone = request(f"r{index}")
        expiry.add(gone)
        for _ in range(2):
            expiry.discard(gone)
    assert len(expiry._heap) < 50
    assert expiry.take_due(1e9) == ["kept"]


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_a_request_that_waits_too_long_ends_and_those_that_run_go_on(policy: Any) -> None:
    driver = SchedulerDriver(max_num_seqs=1, policy=policy)
    driver.add("runs", [1, 2], max_tokens=30, queue_timeout_s=5.0)
    driver.step()
    driver.add("waits", [3, 4], queue_timeout_s=5.0)
    driver.add("patient", [5, 6], max_tokens=1)
    driver.run()
    last = driver.last("waits")
    assert last.finish_reason is FinishReason.QUEUE_TIMEOUT
    assert last.error is not None
    assert "--queue-timeout" in last.error
    assert last.times is not None
    assert last.times.scheduled is None
    assert len(driver.deltas["waits"]) == 1
    assert driver.last("runs").finish_reason is FinishReason.LENGTH
    assert driver.last("patient").finish_reason is FinishReason.LENGTH


def test_a_preempted_request_has_been_scheduled() -> None:
    driver = SchedulerDriver(num_blocks=4, block_size=2)
    driver.add("first", [1, 2], max_tokens=5, queue_timeout_s=3.0)
    driver.add("second", [3, 4], max_tokens=5, queue_timeout_s=3.0)
    driver.run()
    last = driver.last("second")
    assert last.times is not None
    assert last.times.num_preemptions > 0
    assert last.finish_reason is FinishReason.LENGTH
