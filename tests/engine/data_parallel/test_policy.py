"""Which engine gets a request: never one that has much more to do than another, and where there is a choice, the one that saves work."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.server.engine.data_parallel.policy import Balancer, Load

COUNTS = st.integers(0, 300)
LOADS = st.builds(Load, COUNTS, COUNTS, COUNTS, st.floats(0, 1))
ENGINES = st.integers(2, 6).flatmap(
    lambda count: st.tuples(st.lists(LOADS, min_size=count, max_size=count), st.lists(st.integers(0, 4096), min_size=count, max_size=count))
)


@given(ENGINES)
def test_what_is_cached_never_brings_a_request_to_an_engine_far_above_the_least_busy(engines: tuple[list[Load], list[int]]) -> None:
    loads, cached = engines
    weights = [load.weight for load in loads]
    assert weights[Balancer(len(loads)).choose(loads, cached)] <= 1.25 * min(weights) + 4


@given(ENGINES)
def test_nothing_cached_is_the_least_busy(engines: tuple[list[Load], list[int]]) -> None:
    loads, _ = engines
    chosen = Balancer(len(loads)).choose(loads, [0] * len(loads))
    assert loads[chosen].weight == min(load.weight for load in loads)


@given(ENGINES, st.integers(1, 4096))
def test_more_in_its_cache_never_turns_a_request_away(engines: tuple[list[Load], list[int]], more: int) -> None:
    loads, cached = engines
    chosen = Balancer(len(loads)).choose(loads, cached)
    cached[chosen] += more
    assert Balancer(len(loads)).choose(loads, cached) == chosen


@pytest.mark.parametrize(
    ("first", "second", "cached", "chosen"),
    [
        (Load(), Load(), [64, 0], 0),
        (Load(), Load(), [64, 128], 1),
        (Load(1), Load(), [64, 0], 1),  # 64 tokens are computed sooner than it would share the engine with another
        (Load(1), Load(), [1024, 0], 0),
        (Load(0, 0, 1), Load(), [0, 0], 1),  # on its way counts as running
        (Load(3, 1), Load(6), [0, 0], 1),  # one that waits counts for four
        (Load(4, 0, 0, 0.9), Load(5, 0, 0, 0.1), [0, 0], 1),  # a full cache will soon preempt
        (Load(5), Load(), [4096, 0], 1),
    ],
)
def test_judgements(first: Load, second: Load, cached: list[int], chosen: int) -> None:
    assert Balancer(2).choose([first, second], cached) == chosen
    assert Balancer(2).choose([second, first], cached[::-1]) == 1 - chosen


def test_engines_that_are_alike_take_turns() -> None:
    balancers = [Balancer(3, first=first) for first in (0, 1, 5)]
    turns = [[balancer.choose([Load()] * 3, [0] * 3) for _ in range(6)] for balancer in balancers]
    assert turns == [[0, 1, 2, 0, 1, 2], [1, 2, 0, 1, 2, 0], [2, 0, 1, 2, 0, 1]]


def test_requests_that_all_share_a_prefix_still_use_every_engine() -> None:
    """32 clients, each with another request as soon as its last one ends; all of them find 2,048 tokens wherever one has been."""
    balancer, running, cached = Balancer(4), [0] * 4, [0] * 4
    chance = random.Random(8)
    served: Counter[int] = Counter()
    for number in range(4000):
        if number >= 32:
            running[chance.choices(range(4), running)[0]] -= 1
        chosen = balancer.choose([Load(count) for count in running], cached)
        running[chosen] += 1
        cached[chosen] = 2048
        served[chosen] += 1
        assert max(running) <= 1.25 * min(running) + 5
    assert min(served.values()) > 800
