"""What a step looks at must not depend on how many wait. Calls are counted, for time would depend on the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType

import pytest

from headway.server.engine.batch import BatchResult, RowResult
from headway.server.engine.kv.manager import KVCacheManager
from headway.server.engine.scheduler import Scheduler
from headway.server.engine.waiting import Policy
from headway.server.types import GenerateRequest, SamplingParams

_NUM_RUNNING = 4


def _scheduler(policy: Policy, num_waiting: int) -> Scheduler:
    """Its rows are taken, and ``num_waiting`` requests wait for one."""
    scheduler = Scheduler(
        kv=KVCacheManager(64, 16, enable_prefix_caching=True),
        max_num_batched_tokens=64,
        max_num_seqs=_NUM_RUNNING,
        max_model_len=256,
        policy=policy,
        clock=lambda: 1.0,
    )
    for number in range(_NUM_RUNNING + num_waiting):
        sampling = SamplingParams(max_tokens=100)
        scheduler.add(GenerateRequest(f"r{number}", [1, 2, 3], sampling, 0.0, priority=number % 3, queue_timeout_s=60.0))
    _step(scheduler)
    return scheduler


def _step(scheduler: Scheduler) -> None:
    plan = scheduler.schedule()
    assert plan is not None
    scheduler.update(plan, BatchResult([RowResult([5]) for _ in plan.scheduled]))
    scheduler.stats()


def _num_calls(work: Callable[[], object]) -> int:
    """Of functions, those of C included: a comprehension over all that wait calls nothing, but what it does for each would."""
    count = 0

    def on_event(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(on_event)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_a_step_costs_the_same_however_many_wait(policy: Policy) -> None:
    costs = set()
    for num_waiting in (1, 5000):
        scheduler = _scheduler(policy, num_waiting)
        costs.add(_num_calls(lambda scheduler=scheduler: _step(scheduler)))  # type: ignore[misc]
        assert scheduler.stats().num_waiting == num_waiting
    assert len(costs) == 1


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_aborting_one_that_waits_costs_the_same_however_many_others_do(policy: Policy) -> None:
    costs = set()
    for num_waiting in (10, 5000):
        scheduler = _scheduler(policy, num_waiting)
        costs.add(_num_calls(lambda scheduler=scheduler, last=num_waiting: scheduler.abort([f"r{last}"])))  # type: ignore[misc]
        assert scheduler.stats().num_waiting == num_waiting - 1
    assert len(costs) == 1
