"""When drafts are worth their place in a step."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import pytest

from headway.server.engine.speculative.gain import Acceptance, Offer, StepCosts, worthwhile


def costs(fixed: float, per_token: float) -> StepCosts:
    """As found in steps of two widths."""
    return learnt(lambda num_tokens: fixed + per_token * num_tokens, [1, 1001])


def learnt(seconds: Callable[[int], float], widths: Sequence[int], rounds: int = 100) -> StepCosts:
    known = StepCosts()
    for _ in range(rounds):
        for width in widths:
            known.learn(width, seconds(width))
    return known


def take(known: StepCosts, batch: int, chance: float, most: int) -> int:
    """Of each, where all requests are alike."""
    taken = worthwhile(known, batch, batch, [Offer(chance, most)] * batch, 1000)
    assert sum(taken) % batch == 0
    return taken[0]


def test_costs_are_found_in_noisy_steps() -> None:
    known, rng = StepCosts(), random.Random(0)
    for _ in range(300):
        num_tokens = rng.randint(1, 12)
        known.learn(num_tokens, (5.0 + 0.5 * num_tokens) * rng.uniform(0.9, 1.1))
    for num_tokens in (1, 6, 12, 20):
        assert known.seconds(num_tokens) == pytest.approx(5.0 + 0.5 * num_tokens, rel=0.15)


def test_a_step_that_was_held_up_hardly_counts() -> None:
    known = learnt(lambda num_tokens: 5.0 + 0.5 * num_tokens, range(1, 6), 40)
    before = known.seconds(4)
    known.learn(3, 1000.0)
    assert known.seconds(4) < 1.3 * before


def test_the_slope_of_steps_of_one_width_fades_so_that_drafts_are_tried_again() -> None:
    known = learnt(float, [1, 2], 25)
    assert known.seconds(2) - known.seconds(1) > 0.3
    for _ in range(600):
        known.learn(1, 1.0)
    assert known.seconds(2) - known.seconds(1) < 0.02


def test_stairs_are_known() -> None:
    """As of a kernel that takes eight rows at a time."""
    known = learnt(lambda num_tokens: 1.0 + (num_tokens + 7) // 8, [8, 9, 10, 12, 16, 17])
    assert known.seconds(9) - known.seconds(8) > 0.8
    assert abs(known.seconds(16) - known.seconds(12)) < 0.2
    assert take(known, 8, 0.3, 1) == 0, "a ninth row is not worth a step half as long again"
    assert take(known, 8, 0.9, 1) == 1, "but all eight of the stair are"
    assert worthwhile(known, 8, 8, [Offer(0.9, 1)] + [Offer(0.0, 0)] * 7, 99) == [0] * 8


def test_drafts_are_taken_while_they_bring_more_than_they_cost() -> None:
    assert take(costs(9.0, 1.0), 1, 0.9, 8) == 8
    assert take(costs(9.0, 1.0), 1, 0.2, 8) == 1
    assert take(costs(9.0, 1.0), 1, 0.05, 8) == 0
    assert take(costs(1.0, 9.0), 64, 0.9, 8) == 0, "where a step's time is that of its rows, none pays"


def test_the_likeliest_come_first_and_no_more_than_there_is_room_for() -> None:
    offers = [Offer(0.1, 4), Offer(0.9, 4), Offer(0.5, 4)]
    assert worthwhile(costs(9.0, 0.0), 3, 3, offers, 4) == [0, 4, 0]
    assert worthwhile(costs(9.0, 0.0), 3, 3, offers, 6) == [0, 4, 2]
    assert worthwhile(costs(9.0, 0.0), 3, 3, offers, 0) == [0, 0, 0]


def test_of_what_was_taken_all_is_taken_again() -> None:
    """So the rule is asked once where all drafts were found."""
    rng = random.Random(1)
    for _ in range(200):
        widths = rng.sample(range(1, 40), 6)
        known = learnt(lambda num_tokens: 4.0 + num_tokens * rng.uniform(0.1, 1.5), widths, 5)
        offers = [Offer(rng.choice([0.05, 0.5, 0.5, 0.9]), rng.randint(0, 5)) for _ in range(rng.randint(1, 8))]
        budget = rng.randint(1, 30)
        taken = worthwhile(known, len(offers), len(offers), offers, budget)
        again = [Offer(offer.chance, count) for offer, count in zip(offers, taken, strict=True)]
        assert worthwhile(known, len(offers), len(offers), again, budget) == taken


@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("per_token", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_what_is_taken_never_lowers_the_expected_rate(chance: float, per_token: float, batch: int) -> None:
    known = costs(5.0, per_token)
    taken = worthwhile(known, batch, batch, [Offer(chance, 4)] * batch, 1000)
    new = batch + sum(chance**i for count in taken for i in range(1, count + 1))
    assert new / known.seconds(batch + sum(taken)) >= batch / known.seconds(batch) * (1 - 1e-9)


def test_acceptance_follows_what_drafts_do_and_comes_back() -> None:
    acceptance = Acceptance()
    for _ in range(20):
        acceptance.learn(4, 4)
    assert acceptance.chance > 0.95
    for _ in range(20):
        acceptance.learn(4, 0)
    low = acceptance.chance
    assert low < 0.15
    for _ in range(200):
        acceptance.fade()
    assert acceptance.chance > 0.4
