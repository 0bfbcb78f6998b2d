"""Which texts go into a step, and that each ends once."""

from __future__ import annotations

from typing import Any

import pytest
from pooling_driver import text

from headway.server.engine.pooling.batch import PoolingPlan, PoolingResult, PoolingRow
from headway.server.engine.pooling.scheduler import PoolingScheduler
from headway.server.types import FinishReason, Pooled, PoolRequest, TokenDelta


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def make(clock: Clock | None = None, **limits: Any) -> PoolingScheduler:
    sizes = {"max_num_batched_tokens": 10, "max_num_seqs": 4, "max_model_len": 20, **limits}
    return PoolingScheduler(clock=clock or Clock(), **sizes)


def request(name: str, num_tokens: int, **fields: Any) -> PoolRequest:
    made = text(name, range(num_tokens))
    return PoolRequest(made.request_id, made.prompt_token_ids, made.pooling, **{"arrival_time": 1000.0, **fields})


def names(plan: PoolingPlan | None) -> list[str]:
    return [] if plan is None else [request.request_id for request in plan.requests]


def finish(scheduler: PoolingScheduler, plan: PoolingPlan) -> list[TokenDelta]:
    return scheduler.update(plan, PoolingResult([PoolingRow(Pooled(b"")) for _ in plan.requests]))


def steps(scheduler: PoolingScheduler) -> list[list[str]]:
    found = []
    while (plan := scheduler.schedule()) is not None:
        found.append(names(plan))
        assert [delta.request_id for delta in finish(scheduler, plan)] == names(plan)
    assert not scheduler.has_work
    return found


def test_a_step_takes_what_fits_in_order() -> None:
    scheduler = make()
    for name, length in (("a", 4), ("b", 6), ("c", 1), ("d", 10), ("e", 1)):
        scheduler.add(request(name, length))
    assert scheduler.stats().num_waiting == 5
    assert steps(scheduler) == [["a", "b"], ["c"], ["d"], ["e"]]


def test_no_more_texts_than_rows() -> None:
    scheduler = make()
    for i in range(5):
        scheduler.add(request(str(i), 1))
    assert steps(scheduler) == [["0", "1", "2", "3"], ["4"]]


def test_a_text_longer_than_the_budget_runs_alone() -> None:
    scheduler = make()
    for name, length in (("long", 20), ("short", 1)):
        scheduler.add(request(name, length))
    assert steps(scheduler) == [["long"], ["short"]]


def test_pages_bound_a_step() -> None:
    scheduler = make(num_blocks=3, block_size=4)
    for i in range(4):
        scheduler.add(request(str(i), 2))
    assert steps(scheduler) == [["0", "1", "2"], ["3"]]


def test_priority_goes_before_arrival() -> None:
    scheduler = make(policy="priority", max_num_seqs=1)
    scheduler.add(request("late", 1, priority=1))
    scheduler.add(request("first", 1, priority=-1))
    assert steps(scheduler) == [["first"], ["late"]]


@pytest.mark.parametrize("num_tokens", [0, 21])
def test_what_does_not_fit_the_model_is_not_accepted(num_tokens: int) -> None:
    scheduler = make()
    with pytest.raises(ValueError, match="1 to 20"):
        scheduler.add(request("a", num_tokens))
    assert not scheduler.has_work


def test_an_id_can_be_open_once() -> None:
    scheduler = make()
    scheduler.add(request("a", 1))
    with pytest.raises(ValueError, match="already open"):
        scheduler.add(request("a", 1))
    assert steps(scheduler) == [["a"]]


def test_abort_ends_once_while_it_waits_and_while_it_runs() -> None:
    scheduler = make(max_num_seqs=1)
    for name in ("running", "waiting"):
        scheduler.add(request(name, 1))
    plan = scheduler.schedule()
    assert plan is not None
    ends = scheduler.abort(["running", "waiting", "unknown", "running"])
    assert [(delta.request_id, delta.finish_reason) for delta in ends] == [("running", FinishReason.ABORT), ("waiting", FinishReason.ABORT)]
    assert finish(scheduler, plan) == []
    assert not scheduler.has_work
    assert scheduler.stats().num_running == scheduler.stats().num_waiting == 0


def test_what_waits_too_long_is_told_so() -> None:
    clock = Clock()
    scheduler = make(clock, max_num_seqs=1)
    scheduler.add(request("running", 1, queue_timeout_s=5.0))
    plan = scheduler.schedule()
    assert plan is not None
    scheduler.add(request("late", 1, queue_timeout_s=5.0))
    clock.now += 6
    assert scheduler.schedule() is None
    (expired,) = scheduler.take_refused()
    assert (expired.request_id, expired.finish_reason) == ("late", FinishReason.QUEUE_TIMEOUT)
    assert expired.error is not None
    assert "--queue-timeout" in expired.error
    (done,) = finish(scheduler, plan)
    assert done.finish_reason is FinishReason.STOP
    assert done.times is not None
    assert (done.times.arrival, done.times.scheduled, done.times.last_token) == (1000.0, 1000.0, 1006.0)


def test_a_row_s_error_is_its_own() -> None:
    scheduler = make()
    for name in ("good", "bad"):
        scheduler.add(request(name, 1))
    plan = scheduler.schedule()
    assert plan is not None
    good, bad = scheduler.update(plan, PoolingResult([PoolingRow(Pooled(b"x")), PoolingRow(None, "broken")]))
    assert good.pooled == Pooled(b"x")
    assert (bad.finish_reason, bad.error) == (FinishReason.ERROR, "broken")
