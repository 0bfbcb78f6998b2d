"""Dense random loads on caches that are too small for them: all rules of sharing, eviction and preemption at work together."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from paged_runner import SchedulerDriver

NUM_LOADS = 150
_DOCUMENTS = [[(3 * i * i + i) % 11 for i in range(60)], [(3 * i * i + i) % 11 for i in range(17)] + [9] * 43, [5] * 60]


def run_load(seed: int) -> SchedulerDriver:
    """About 30 requests whose prompts share beginnings arrive over time; some are aborted, some break, steps are planned ahead or not."""
    rng = random.Random(seed)
    block_size = rng.randint(1, 5)
    capacity = rng.randint(20, 70)
    driver = SchedulerDriver(
        num_blocks=max(capacity // block_size, 1),
        block_size=block_size,
        max_num_batched_tokens=rng.choice([3, 8, 20, 64]),
        max_num_seqs=rng.choice([1, 3, 8, 8]),
        max_model_len=rng.choice([25, 60, 100]),
        policy=rng.choice(["fcfs", "fcfs", "priority"]),
        enable_chunked_prefill=rng.random() < 0.8,
        long_prefill_token_threshold=rng.choice([0, 0, 4]),
        enable_prefix_caching=rng.random() < 0.85,
    )
    added = 0
    while added < 30:
        for _ in range(rng.choice([0, 1, 1, 2, 6])):
            _add(driver, f"r{added}", rng)
            added += 1
        if rng.random() < 0.2:
            driver.schedule()
        for _ in range(rng.choice([1, 1, 2, 5])):
            driver.step()
        if driver.runner.rows and rng.random() < 0.05:
            driver.runner.breaks.add(rng.choice(sorted(driver.runner.rows)))
        if rng.random() < 0.1:
            driver.abort(*[f"r{rng.randrange(added + 1)}" for _ in range(2)])
        if rng.random() < 0.02:
            driver.kv.reset_prefix_cache()
    driver.run()
    return driver


def _add(driver: SchedulerDriver, request_id: str, rng: random.Random) -> None:
    prompt = rng.choice(_DOCUMENTS)[: rng.choice([rng.randint(1, 12), rng.randint(1, 12), rng.randint(1, 30), 60])] + [
        rng.randrange(11)
    ] * rng.randint(0, 2)
    driver.add(
        request_id,
        prompt[: rng.randint(1, driver.max_len)] if rng.random() < 0.9 else prompt,
        priority=rng.randint(-1, 1),
        cache_salt=rng.choice([None, None, None, "", "tenant"]),
        max_tokens=rng.choice([0, 1, 8, 20, 30]),
        min_tokens=rng.choice([0, 0, 3]),
        ignore_eos=rng.random() < 0.7,
        eos_token_ids=(2,),
        stop_token_ids=rng.choice([(), (), (), (3,), (4, 2)]),
        logprobs=rng.choice([None, 0]),
        prompt_logprobs=rng.choice([None, None, None, 0]),
    )


@pytest.mark.parametrize("start", range(0, NUM_LOADS, 30))
def test_every_request_gets_its_own_tokens_and_one_end(start: int) -> None:
    reached: Counter[str] = Counter()
    for seed in range(start, start + 30):
        driver = run_load(seed)
        for request_id, deltas in driver.deltas.items():
            ends = [delta.finish_reason for delta in deltas if delta.finish_reason is not None]
            assert len(ends) == 1, f"load {seed}, {request_id}: {ends}"
            reached[ends[0]] += 1
        reached["preemptions"] += driver.scheduler.stats().num_preemptions
        reached["hits"] += driver.kv.num_hit_tokens
    # A load that never gets there would prove nothing.
    assert reached["preemptions"] > 40, reached
    assert reached["hits"] > 500, reached
    assert min(reached[reason] for reason in ("stop", "length", "abort", "error")) > 5, reached
