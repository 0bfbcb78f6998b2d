"""Percentiles of millions of values in little memory."""

from __future__ import annotations

import math
from collections import Counter

_GROWTH = 1.01  # of a bucket's upper bound over its lower one


class Quantiles:
    """Each within half a percent, from a count a bucket whose bounds grow geometrically: DDSketch (Masson et al., VLDB 2019) without the
    merging of buckets, since seconds between a microsecond and a day take 2,500 of them. Values are above 0."""

    def __init__(self) -> None:
        self._counts: Counter[int] = Counter()
        self.num_values = 0

    def add(self, value: float) -> None:
        self._counts[math.floor(math.log(value, _GROWTH))] += 1
        self.num_values += 1

    def at(self, share: float) -> float:
        """0.0 where there is no value."""
        left = min(int(self.num_values * share), self.num_values - 1)
        for bucket in sorted(self._counts):
            left -= self._counts[bucket]
            if left < 0:
                return float(_GROWTH ** (bucket + 0.5))
        return 0.0
