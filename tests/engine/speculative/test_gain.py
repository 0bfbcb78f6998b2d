"""When drafts are worth their place in a step."""

from __future__ import annotations

import random

import pytest

from headway.server.engine.speculative.gain import Acceptance, Gain, StepCosts


def costs(fixed: float, per_token: float) -> StepCosts:
    known = StepCosts()
    known.fixed, known.per_token = fixed, per_token
    return known


def test_costs_are_found_in_noisy_steps() -> None:
    known, rng = StepCosts(), random.Random(0)
    for _ in range(300):
        num_tokens = rng.randint(1, 12)
        known.learn(num_tokens, (5.0 + 0.5 * num_tokens) * rng.uniform(0.9, 1.1))
    assert known.per_token == pytest.approx(0.5, rel=0.3)
    assert known.fixed == pytest.approx(5.0, rel=0.2)


def test_a_step_that_was_held_up_hardly_counts() -> None:
    known = StepCosts()
    for number in range(200):
        known.learn(1 + number % 5, 5.0 + 0.5 * (1 + number % 5))
    before = known.fixed
    known.learn(3, 1000.0)
    assert known.fixed < 1.3 * before


def test_the_slope_of_steps_of_one_width_fades_so_that_drafts_are_tried_again() -> None:
    known = StepCosts()
    for number in range(50):
        known.learn(1 + number % 2, 1.0 + number % 2)
    assert known.per_token > 0.3
    for _ in range(300):
        known.learn(1, 1.0)
    assert known.per_token < 0.02


def test_drafts_are_taken_while_they_bring_more_than_they_cost() -> None:
    assert Gain(costs(9.0, 1.0), 1, 1).take(0.9, 8) == 8
    assert Gain(costs(9.0, 1.0), 1, 1).take(0.2, 8) == 1
    assert Gain(costs(9.0, 1.0), 1, 1).take(0.05, 8) == 0
    assert Gain(costs(1.0, 9.0), 64, 64).take(0.9, 8) == 0, "where a step's time is that of its rows, none pays"


@pytest.mark.parametrize("chance", [0.1, 0.3, 0.5, 0.8, 0.95])
@pytest.mark.parametrize("per_token", [0.0, 0.05, 0.3, 1.0])
@pytest.mark.parametrize("batch", [1, 8, 64])
def test_what_is_taken_never_lowers_the_expected_rate(chance: float, per_token: float, batch: int) -> None:
    gain, known = Gain(costs(5.0, per_token), batch, batch), costs(5.0, per_token)
    taken = [gain.take(chance, 4) for _ in range(batch)]
    new = batch + sum(chance**i for count in taken for i in range(1, count + 1))
    assert new / (5.0 + known.per_token * (batch + sum(taken))) >= batch / (5.0 + known.per_token * batch) * (1 - 1e-9)


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
