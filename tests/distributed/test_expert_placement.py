"""Placements of experts on ranks: always whole, always even, never worse; and the moves from one to the next."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.server.distributed.expert_placement import Placement, balanced_placement, first_placement, moves_between, rank_loads


@st.composite
def placed(draw: st.DrawFn) -> tuple[Placement, list[list[int]]]:
    """A first placement, and loads that come one after the other."""
    num_ranks = draw(st.integers(2, 6))
    num_slots = draw(st.integers(1, 6))
    num_experts = draw(st.integers(num_slots, num_slots * num_ranks))
    load = st.lists(st.integers(0, 1000), min_size=num_experts, max_size=num_experts)
    return first_placement(num_experts, num_ranks, num_slots * num_ranks - num_experts), draw(st.lists(load, min_size=1, max_size=4))


@given(placed())
def test_every_expert_has_its_place_and_no_rank_more_to_do(given: tuple[Placement, list[list[int]]]) -> None:
    before, changes = given
    num_slots = len(before[0])
    for loads in changes:
        after = balanced_placement(loads, before)
        assert {expert for slots in after for expert in slots} == set(range(len(loads)))
        assert all(len(slots) == len(set(slots)) == num_slots for slots in after)
        assert max(rank_loads(loads, after)) <= max(rank_loads(loads, before))
        assert sum(rank_loads(loads, after)) == pytest.approx(sum(loads))
        held = [list(slots) for slots in before]
        moves = moves_between(before, after)
        for move in moves:
            assert before[move.source][move.source_slot] == move.expert
            assert move.source != move.target
            held[move.target][move.target_slot] = move.expert
        assert tuple(map(tuple, held)) == after
        most = num_slots + sum(map(len, before)) - len(loads)
        assert max(Counter(move.source for move in moves).values(), default=0) <= most  # what memory is planned for
        before = after


def test_busy_experts_are_separated_and_replicated() -> None:
    before = first_placement(6, 2, 0)
    assert before == ((0, 1, 2), (3, 4, 5))
    after = balanced_placement([50, 50, 0, 0, 1, 1], before)
    assert rank_loads([50, 50, 0, 0, 1, 1], after) == [51, 51]
    assert len(moves_between(before, after)) == 2  # the others stay

    before = first_placement(6, 2, 2)
    loads = [100, 1, 1, 1, 1, 1]
    after = balanced_placement(loads, before)
    assert all(0 in slots for slots in after)
    assert max(rank_loads(loads, after)) < max(rank_loads(loads, first_placement(6, 2, 0)))


def test_what_is_as_good_stays() -> None:
    before = first_placement(4, 2, 0)
    assert balanced_placement([0, 0, 0, 0], before) is before
    assert balanced_placement([5, 1, 1, 5], before) is before
