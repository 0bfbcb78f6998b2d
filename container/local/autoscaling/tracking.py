"""Target tracking: how many copies a measured value asks for. Pure.

The platform makes two alarms of a policy: above the target in three points on end, and below 90% of it in fifteen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

NUM_OUT_POINTS = 3
NUM_IN_POINTS = 15
_IN_SHARE = 0.9
# A quotient that should have been whole may be a little more.
_ROUNDING = 1 - 1e-9


@dataclass(frozen=True, slots=True)
class Bounds:
    least: int
    most: int

    def within(self, num_copies: int) -> int:
        return max(self.least, min(self.most, num_copies))


def proposal(points: Sequence[float], num_copies: int, target: float) -> int:
    """How many copies a policy's ``points`` (a value a copy, oldest first) ask for; ``num_copies`` where they ask for no change.

    With no copy at all a value is taken as if there were one.
    """
    out, low = points[-NUM_OUT_POINTS:], points[-NUM_IN_POINTS:]
    if len(out) == NUM_OUT_POINTS and min(out) > target:
        return max(num_copies + 1, _needed(out[-1], max(num_copies, 1), target))
    if len(low) == NUM_IN_POINTS and max(low) < _IN_SHARE * target:
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
