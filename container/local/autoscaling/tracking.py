"""Target tracking: how many copies a measured value asks for. Pure.

The platform makes two alarms of a policy: above the target in three points on end, and below 90% of it for fifteen minutes. With metrics
that have a point every 10 s it scales out sooner, and in as slowly as with others
(https://docs.aws.amazon.com/sagemaker/latest/dg/endpoint-auto-scaling-add-code-define.html).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NUM_OUT_POINTS = 3
NUM_IN_POINTS = 15  # of a metric with one a minute
_IN_SHARE = 0.9
# A quotient that should have been whole may be a little more.
_ROUNDING = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Bounds:
    least: int
    most: int

    def within(self, num_copies: int) -> int:
        return max(self.least, min(self.most, num_copies))


def num_in_points(period_s: float) -> int:
    """Of fifteen minutes, for a metric with a point every ``period_s``."""
    return round(NUM_IN_POINTS * 60 / period_s)


def proposal(points: Sequence[float], num_copies: int, target: float, num_in: int = NUM_IN_POINTS) -> int:
    """How many copies a policy's ``points`` (a value a copy, oldest first) ask for; ``num_copies`` where they ask for no change.

    With no copy at all a value is taken as if there were one.
    """
    out, low = points[-NUM_OUT_POINTS:], points[-num_in:]
    if len(out) == NUM_OUT_POINTS and min(out) > target:
        return max(num_copies + 1, _needed(out[-1], max(num_copies, 1), target))
    if len(low) == num_in and max(low) < _IN_SHARE * target:
        return min(num_copies, _needed(max(low), num_copies, target))
    return num_copies


def _needed(value: float, num_copies: int, target: float) -> int:
    return math.ceil(num_copies * value / target * _ROUNDING)


def agreed(proposals: Sequence[tuple[int, bool]], num_copies: int) -> int:
    """What several policies ask for together: the most of those that want more, else the most if all that may scale in want fewer.

    Each of ``proposals``: how many, and whether the policy may scale in.
    """
    more = [wanted for wanted, _ in proposals if wanted > num_copies]
    if more:
        return max(more)
    return max((wanted for wanted, may_scale_in in proposals if may_scale_in), default=num_copies)
