"""The arithmetic of target tracking: enough copies and not more, and no change without a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headway.container.local.autoscaling.tracking import NUM_IN_POINTS, NUM_OUT_POINTS, Bounds, agreed, num_in_points, proposal

TARGETS = st.floats(0.01, 1000)
COPIES = st.integers(1, 100)


@given(COPIES, TARGETS, st.floats(1.001, 50))
def test_scaling_out_is_enough_and_not_more(num_copies: int, target: float, excess: float) -> None:
    wanted = proposal([target * excess] * NUM_OUT_POINTS, num_copies, target)
    assert wanted > num_copies
    load = target * excess * num_copies
    assert load / wanted <= target * (1 + 1e-6)
    assert wanted == num_copies + 1 or load / (wanted - 1) > target


@given(COPIES, TARGETS, st.floats(0, 0.899))
def test_scaling_in_leaves_enough(num_copies: int, target: float, share: float) -> None:
    wanted = proposal([target * share] * NUM_IN_POINTS, num_copies, target)
    assert 0 <= wanted <= num_copies
    assert target * share * num_copies <= wanted * target * (1 + 1e-6)


@given(st.lists(st.floats(0, 2000), max_size=30), COPIES, TARGETS)
def test_no_change_without_points(points: list[float], num_copies: int, target: float) -> None:
    wanted = proposal(points, num_copies, target)
    if wanted > num_copies:
        assert len(points) >= NUM_OUT_POINTS
        assert min(points[-NUM_OUT_POINTS:]) > target
    elif wanted < num_copies:
        assert len(points) >= NUM_IN_POINTS
        assert max(points[-NUM_IN_POINTS:]) < 0.9 * target


@pytest.mark.parametrize(
    ("points", "num_copies", "wanted"),
    [
        ([20, 20, 20], 2, 4),
        ([5, 20, 20], 2, 2),
        ([11, 11, 30], 2, 6),
        ([20, 20], 2, 2),
        ([5] * 15, 4, 2),
        ([5] * 14 + [9.5], 4, 4),
        ([0] * 15, 4, 0),
        ([25, 25, 25], 0, 3),
        ([0.001] * 15, 4, 1),
        ([10 / 3] * 15, 3, 1),
    ],
)
def test_examples(points: list[float], num_copies: int, wanted: int) -> None:
    assert proposal(points, num_copies, 10) == wanted


@pytest.mark.parametrize(
    ("proposals", "wanted"),
    [
        ([(6, True), (8, False), (2, True)], 8),
        ([(2, True), (3, True)], 3),
        ([(2, True), (5, True)], 5),
        ([(2, True), (5, False)], 2),
        ([(2, False)], 5),
    ],
)
def test_several_policies(proposals: list[tuple[int, bool]], wanted: int) -> None:
    assert agreed(proposals, 5) == wanted


def test_frequent_points_scale_in_as_late_as_others() -> None:
    assert (num_in_points(60), num_in_points(10)) == (15, 90)
    assert proposal([0] * 89, 4, 10, num_in_points(10)) == 4
    assert proposal([0] * 90, 4, 10, num_in_points(10)) == 0


def test_bounds() -> None:
    assert [Bounds(1, 4).within(number) for number in (0, 1, 4, 9)] == [1, 1, 4, 4]
