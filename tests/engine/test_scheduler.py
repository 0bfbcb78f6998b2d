"""The scheduler's rules one by one, each on the lightest load that shows it."""

from __future__ import annotations

import gc
import sys
from types import FrameType
from typing import Any

import pytest
from paged_runner import SchedulerDriver, expected_tokens, next_token

from headway.server.engine.batch import BatchPlan
from headway.server.types import FinishReason


def amounts(plan: BatchPlan | None) -> dict[str, int]:
    assert plan is not None
    return {item.request_id: item.num_tokens for item in plan.scheduled}


def test_one_request_from_prompt_to_end() -> None:
    driver = SchedulerDriver(block_size=4)
    driver.add("a", [1, 2, 3, 4, 5], max_tokens=3)
    assert driver.scheduler.has_work
    assert driver.run() == 3
    assert [amounts(plan) for plan in driver.plans] == [{"a": 5}, {"a": 1}, {"a": 1}]
    new = driver.plans[0].added[0]
    assert (new.token_ids, new.num_prompt_tokens, new.num_computed_tokens, len(new.block_ids)) == ([1, 2, 3, 4, 5], 5, 0, 2)
    assert all(not plan.added for plan in driver.plans[1:])
    assert driver.tokens("a") == expected_tokens(driver.requests["a"], 64)[0]
    assert driver.last("a").finish_reason is FinishReason.LENGTH
    assert driver.scheduler.schedule() is None
    assert not driver.scheduler.has_work


def test_times() -> None:
    driver = SchedulerDriver()
    driver.add("a", [1, 2], max_tokens=2)
    driver.run()
    times = driver.last("a").times
    assert times is not None
    # The clock ticks once a look: schedule, update, schedule, update.
    assert (times.arrival, times.scheduled, times.first_token, times.last_token, times.num_preemptions) == (100.0, 101.0, 102.0, 104.0, 0)


def test_long_prompts_are_cut_and_decodes_go_first() -> None:
    driver = SchedulerDriver(max_num_batched_tokens=8)
    driver.add("long", [1] * 20)
    assert amounts(driver.schedule()) == {"long": 8}
    driver.finish_step()
    driver.add("short", [2])
    driver.step()
    assert amounts(driver.plans[-1]) == {"long": 8}
    driver.step()
    assert amounts(driver.plans[-1]) == {"long": 4, "short": 1}
    driver.add("next", [3] * 20)
    driver.step()
    assert amounts(driver.plans[-1]) == {"long": 1, "short": 1, "next": 6}
    driver.run()


def test_a_decode_is_not_stalled_by_an_earlier_prompt() -> None:
    driver = SchedulerDriver(max_num_batched_tokens=6, long_prefill_token_threshold=5)
    driver.add("long", [1] * 40)
    driver.add("short", [2])
    driver.step()
    assert amounts(driver.plans[-1]) == {"long": 5, "short": 1}
    driver.scheduler._max_chunk = 100
    driver.step()
    assert amounts(driver.plans[-1]) == {"short": 1, "long": 5}
    driver.run()


def test_threshold_leaves_room_for_others() -> None:
    driver = SchedulerDriver(max_num_batched_tokens=16, long_prefill_token_threshold=4)
    driver.add("a", [1] * 20)
    driver.add("b", [2] * 20)
    driver.step()
    assert amounts(driver.plans[-1]) == {"a": 4, "b": 4}
    driver.run()


def test_without_chunks_a_prompt_waits_for_a_step_that_has_room() -> None:
    driver = SchedulerDriver(max_num_batched_tokens=10, enable_chunked_prefill=False, long_prefill_token_threshold=2)
    driver.add("a", [1] * 6)
    driver.add("b", [2] * 6)
    driver.add("c", [3])
    driver.step()
    assert amounts(driver.plans[-1]) == {"a": 6}, "b does not fit, and c must not overtake it"
    driver.step()
    assert amounts(driver.plans[-1]) == {"a": 1, "b": 6, "c": 1}
    driver.run()


def test_seats() -> None:
    driver = SchedulerDriver(max_num_seqs=2)
    for request_id in "abc":
        driver.add(request_id, [1], max_tokens=2)
    driver.step()
    assert amounts(driver.plans[-1]) == {"a": 1, "b": 1}
    assert (driver.scheduler.stats().num_running, driver.scheduler.stats().num_waiting) == (2, 1)
    driver.step()
    driver.step()
    assert driver.plans[-1].removed == ["a", "b"]
    assert amounts(driver.plans[-1]) == {"c": 1}
    driver.run()


def test_prefix_hits() -> None:
    driver = SchedulerDriver(block_size=4)
    driver.add("a", [1, 2, 3, 4, 5, 6, 7, 8, 9], max_tokens=2)
    driver.run()
    driver.add("b", [1, 2, 3, 4, 5, 6, 7, 8, 10], max_tokens=3)
    driver.run()
    assert amounts(driver.plans[2]) == {"b": 1}
    assert [delta.num_cached_tokens for delta in driver.deltas["b"]] == [8, 0, 8]
    stats = driver.scheduler.stats()
    assert (stats.prefix_cache_queries, stats.prefix_cache_hits) == (18, 8)


def test_requests_of_one_step_do_not_share_what_is_not_there_yet() -> None:
    driver = SchedulerDriver(block_size=4)
    driver.add("a", [1] * 9)
    driver.add("b", [1] * 9)
    driver.step()
    assert amounts(driver.plans[-1]) == {"a": 9, "b": 9}
    driver.run()


def test_preemption_gives_way_to_the_earlier_and_starts_over() -> None:
    driver = SchedulerDriver(num_blocks=5, block_size=2, enable_prefix_caching=False)
    driver.add("a", [1, 2, 3], max_tokens=6)
    driver.add("b", [4], max_tokens=8)
    driver.run()
    assert driver.scheduler.stats().num_preemptions == 1
    times = driver.last("b").times
    assert times is not None
    assert times.num_preemptions == 1
    back = [new for plan in driver.plans for new in plan.added if new.request_id == "b"][1]
    assert back.token_ids[:1] == [4]
    assert len(back.token_ids) > 1, "it keeps what it generated"
    assert back.num_prompt_tokens == 1
    assert sum("b" in plan.removed for plan in driver.plans) == 1


def test_a_preempted_request_finds_its_own_blocks() -> None:
    driver = SchedulerDriver(num_blocks=5, block_size=2)
    driver.add("a", [1, 2, 3], max_tokens=6)
    driver.add("b", [4], max_tokens=8)
    driver.run()
    back = [new for plan in driver.plans for new in plan.added if new.request_id == "b"][1]
    assert back.num_computed_tokens > 0
    assert driver.last("b").num_cached_tokens == 0, "only what it found when it came counts"


def test_under_priority_the_least_important_gives_way() -> None:
    driver = SchedulerDriver(num_blocks=5, block_size=2, policy="priority")
    driver.add("low", [1, 2], max_tokens=7, priority=5)
    driver.step()
    driver.add("high", [3, 4], max_tokens=7, priority=-5)
    driver.run()
    low, high = driver.last("low").times, driver.last("high").times
    assert low is not None
    assert high is not None
    assert (low.num_preemptions, high.num_preemptions) == (1, 0)


def test_priority_decides_who_is_admitted() -> None:
    driver = SchedulerDriver(max_num_seqs=1, policy="priority")
    for request_id, priority in (("c", 3), ("a", 1), ("b", 2)):
        driver.add(request_id, [1], max_tokens=1, priority=priority)
    driver.run()
    assert [new.request_id for plan in driver.plans for new in plan.added] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_model_len": 8}, "context length"),
        ({"num_blocks": 2}, "KV cache"),
        ({"max_num_batched_tokens": 8, "enable_chunked_prefill": False}, "chunked prefill"),
    ],
)
def test_what_can_never_run_is_refused(options: dict[str, Any], words: str) -> None:
    driver = SchedulerDriver(**options)
    driver.add("big", [1] * 9)
    driver.add("fits", [1] * 7, max_tokens=1)
    driver.run()
    assert driver.last("big").finish_reason is FinishReason.ERROR
    assert words in str(driver.last("big").error)
    assert driver.last("fits").finish_reason is FinishReason.LENGTH
    assert driver.scheduler.take_refused() == []


def test_a_refusal_alone_is_work() -> None:
    driver = SchedulerDriver(num_blocks=1)
    driver.add("big", [1] * 9)
    assert driver.scheduler.has_work
    assert driver.scheduler.schedule() is None
    assert [delta.request_id for delta in driver.scheduler.take_refused()] == ["big"]
    assert not driver.scheduler.has_work


def test_a_request_that_outgrows_the_cache_ends_with_length() -> None:
    driver = SchedulerDriver(num_blocks=2, block_size=4)
    driver.add("a", [1, 2], max_tokens=50)
    driver.run()
    # 8 tokens are cached, and the ninth is sampled from them.
    assert len(driver.tokens("a")) == 7
    assert driver.last("a").finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("prompt", [[], [1, -1], [2**31]])
def test_prompts_that_are_none(prompt: list[int]) -> None:
    driver = SchedulerDriver()
    with pytest.raises(ValueError, match="prompt"):
        driver.add("a", prompt)
    assert not driver.scheduler.has_work


def test_an_id_is_open_once() -> None:
    driver = SchedulerDriver()
    driver.add("a", [1])
    with pytest.raises(ValueError, match="already open"):
        driver.scheduler.add(driver.requests["a"])
    driver.run()
    driver.add("a", [1], max_tokens=1)  # free again
    driver.run()


def test_abort_in_every_state() -> None:
    driver = SchedulerDriver(max_num_seqs=1)
    driver.add("running", [1, 2])
    driver.add("waiting", [1, 2])
    driver.step()
    deltas = driver.abort("waiting", "running", "running", "unknown")
    assert [(delta.request_id, delta.finish_reason) for delta in deltas] == [
        ("waiting", FinishReason.ABORT),
        ("running", FinishReason.ABORT),
    ]
    assert not driver.scheduler.has_work
    assert driver.kv.num_used_blocks == 0
    assert driver.abort("running") == []
    driver.add("later", [1], max_tokens=1)
    driver.step()
    assert driver.plans[-1].removed == ["running"], "told with the next plan that has work, and once"


def test_abort_while_the_step_runs() -> None:
    driver = SchedulerDriver()
    driver.add("a", [1, 2])
    driver.schedule()
    driver.abort("a")
    driver.add("a", [3, 4, 5], max_tokens=1)  # the same name, another request
    assert driver.finish_step() == []
    driver.run()
    assert driver.last("a").finish_reason is FinishReason.LENGTH


def test_a_broken_row_ends_alone_and_shares_nothing() -> None:
    driver = SchedulerDriver(block_size=4)
    driver.add("bad", [1] * 9)
    driver.add("good", [2] * 9)
    driver.step()
    driver.runner.breaks.add("bad")
    driver.run()
    assert (driver.last("bad").finish_reason, driver.last("bad").error) == (FinishReason.ERROR, "broken on purpose")
    assert driver.last("good").finish_reason is FinishReason.LENGTH
    driver.add("again", [1] * 9)
    driver.add("fine", [2] * 9)
    driver.run()
    assert (driver.last("again").num_cached_tokens, driver.last("fine").num_cached_tokens) == (0, 8)


def test_prompt_logprobs_come_whole_with_the_first_delta() -> None:
    driver = SchedulerDriver(max_num_batched_tokens=4, block_size=2)
    driver.add("a", [5] * 11, prompt_logprobs=0, logprobs=0)  # the driver checks the contents
    driver.run()
    assert [len(delta.prompt_logprobs or []) for delta in driver.deltas["a"]] == [11, 0, 0, 0]
    driver.add("b", [5] * 11, prompt_logprobs=0, max_tokens=0)
    driver.run()
    assert driver.tokens("b") == []
    assert len(driver.last("b").prompt_logprobs or []) == 11


def test_a_request_that_comes_back_does_not_score_its_prompt_again() -> None:
    driver = SchedulerDriver(num_blocks=5, block_size=2)
    driver.add("a", [1, 2, 3], max_tokens=6)
    driver.add("b", [4], max_tokens=8, prompt_logprobs=0)
    driver.run()
    first, back = (new for plan in driver.plans for new in plan.added if new.request_id == "b")
    assert (first.sampling.prompt_logprobs, back.sampling.prompt_logprobs) == (0, None)


def test_nobody_is_admitted_in_a_step_that_preempts() -> None:
    driver = SchedulerDriver(num_blocks=5, block_size=2)
    driver.add("a", [1, 2, 3], max_tokens=6)
    driver.add("b", [4], max_tokens=8)
    driver.run()
    assert driver.scheduler.stats().num_preemptions
    assert not [plan for plan in driver.plans if {new.request_id for new in plan.added} & set(plan.removed)]


def test_the_next_step_can_be_planned_while_one_runs() -> None:
    driver = SchedulerDriver(max_num_batched_tokens=4)
    driver.add("a", [1] * 10, max_tokens=1)
    driver.add("b", [2] * 2, max_tokens=1)
    plans = [driver.schedule() for _ in range(4)]
    assert [amounts(plan) for plan in plans[:3]] == [{"a": 4}, {"a": 4}, {"a": 2, "b": 2}]
    assert plans[3] is None, "what comes next depends on tokens that are not there yet"
    driver.run()
    assert (len(driver.tokens("a")), len(driver.tokens("b"))) == (1, 1)


def run_ahead(driver: SchedulerDriver, steps: int) -> None:
    """Each step is planned before the result of the one before it is there."""
    for _ in range(steps):
        driver.schedule()
        if len(driver.plans) > 1:
            driver.finish_step()


def test_a_token_is_computed_before_it_is_known() -> None:
    driver = SchedulerDriver(block_size=4)
    driver.add("a", [1, 2, 3, 4, 5], max_tokens=3)
    plans = [driver.schedule() for _ in range(4)]
    assert [amounts(plan) for plan in plans[:3]] == [{"a": 5}, {"a": 1}, {"a": 1}]
    assert plans[3] is None, "the last of its tokens is on its way"
    driver.run()
    assert len(driver.tokens("a")) == 3


def test_what_would_outgrow_the_context_is_not_planned_ahead() -> None:
    driver = SchedulerDriver(max_model_len=4)
    driver.add("a", [1, 2], max_tokens=50)
    assert [driver.schedule() is not None for _ in range(3)] == [True, True, False]
    driver.run()
    assert len(driver.tokens("a")) == 2


def test_a_stop_drops_the_step_that_went_ahead() -> None:
    driver = SchedulerDriver(block_size=1)
    first, second = next_token([1]), next_token([1, next_token([1])])
    assert first != second
    driver.add("a", [1], max_tokens=9, stop_token_ids=(second,))
    run_ahead(driver, 3)
    assert [amounts(plan) for plan in driver.plans] == [{"a": 1}] * 3, "the third computes a token behind the end"
    assert (driver.tokens("a"), driver.last("a").stop_reason) == ([first, second], second)
    assert driver.kv.num_used_blocks == 0, "nothing waits for the step that is out"
    driver.add("b", [1, first, second], max_tokens=1)
    assert amounts(driver.schedule()) == {"b": 1}
    assert driver.plans[-1].added[0].num_computed_tokens == 2, "only what had come back is shared"
    driver.run()
    assert len(driver.deltas["a"]) == 2, "nothing comes after the end"


def test_who_gives_way_ahead_of_its_token_gets_it_again() -> None:
    driver = SchedulerDriver(num_blocks=5, block_size=2, enable_prefix_caching=False)
    driver.add("a", [1, 2, 3], max_tokens=6)
    driver.add("b", [4], max_tokens=8)
    while not driver.scheduler.stats().num_preemptions:
        run_ahead(driver, 1)
    assert any(item.request_id == "b" for item in driver.plans[-2].scheduled), "its step was out when it gave way"
    driver.run()
    times = driver.last("b").times
    assert times is not None
    assert times.num_preemptions >= 1


def test_a_row_that_breaks_takes_the_step_ahead_of_it_along() -> None:
    driver = SchedulerDriver(block_size=4)
    driver.add("bad", [1] * 3, max_tokens=9)
    driver.add("good", [2] * 3, max_tokens=9)
    run_ahead(driver, 2)
    driver.runner.breaks.add("bad")
    driver.run()
    assert [delta.finish_reason for delta in driver.deltas["bad"]] == [None, FinishReason.ERROR]
    assert driver.last("good").finish_reason is FinishReason.LENGTH


@pytest.mark.parametrize("policy", ["fcfs", "priority"])
def test_a_step_costs_the_same_however_many_wait(policy: str) -> None:
    def lines_of_a_step(num_waiting: int) -> int:
        comparisons = 0

        class CountedTime(float):
            """Lets C code be counted too: whoever sorts or searches the waiting has to compare arrival times."""

            def __lt__(self, other: float) -> bool:
                nonlocal comparisons
                comparisons += 1
                return float(self) < float(other)

        driver = SchedulerDriver(num_blocks=100, max_num_seqs=8, policy=policy)
        for number in range(num_waiting):
            driver.now = CountedTime(number)
            driver.add(f"r{number}", [number % 11] * 3)
        driver.now = 0.0
        lines = comparisons = 0

        def trace(frame: FrameType, event: str, arg: object) -> Any:
            nonlocal lines
            lines += event == "line"
            return trace

        before = sys.gettrace()
        gc.disable()  # a collection calls back into Python, and those lines are nobody's here
        sys.settrace(trace)
        try:
            plan = driver.scheduler.schedule()
        finally:
            sys.settrace(before)
            gc.enable()
        assert len(amounts(plan)) == 8
        return lines + comparisons

    few, many = lines_of_a_step(100), lines_of_a_step(100_000)
    # The heap may go a few levels deeper: 8 admissions, 10 levels more, 2 comparisons each.
    assert many <= few + (0 if policy == "fcfs" else 8 * 10 * 2 * 3)


def test_a_watermark_keeps_blocks_free_beside_running_requests_only() -> None:
    driver = SchedulerDriver(num_blocks=10, block_size=4, watermark=0.5)
    driver.add("large", [1] * 28)  # 7 blocks: more than the watermark leaves, but nothing else runs
    driver.step()
    driver.add("small", [2] * 4)
    driver.step()
    assert amounts(driver.plans[-1]) == {"large": 1}, "3 blocks are free, and 5 must stay so"
    driver.run()
    assert driver.last("small").finish_reason is FinishReason.LENGTH


def test_stages_have_steps_of_other_requests_under_way() -> None:
    """Each an even share of those who run; none computes a token that has not come, and each brings along the one that it computes."""
    driver = SchedulerDriver(num_stages=3, max_num_batched_tokens=16)
    for name in "abcdef":
        driver.add(name, [1, 2], max_tokens=4)
    assert amounts(driver.schedule()) == dict.fromkeys("abcdef", 2)
    assert driver.schedule() is None
    driver.finish_step()
    assert [amounts(driver.schedule()) for _ in range(3)] == [{"a": 1, "b": 1}, {"c": 1, "d": 1}, {"e": 1, "f": 1}]
    assert driver.schedule() is None
    driver.finish_step()
    plan = driver.schedule()
    assert amounts(plan) == {"a": 1, "b": 1}
    assert plan is not None
    assert [item.token_id for item in plan.scheduled] == [driver.tokens(name)[-1] for name in "ab"]
    assert [item.token_id for item in driver.plans[0].scheduled] == [None] * 6
    driver.run()


def test_stages_compute_the_pieces_of_a_prompt_at_once() -> None:
    driver = SchedulerDriver(num_stages=2, max_num_batched_tokens=8)
    driver.add("a", [1] * 12, max_tokens=2)
    assert [amounts(driver.schedule()), amounts(driver.schedule()), driver.schedule()] == [{"a": 8}, {"a": 4}, None]
    driver.run()
