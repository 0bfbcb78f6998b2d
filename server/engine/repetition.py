"""Whether an answer goes round in circles: a pattern of tokens, several times in a row, at its end."""

from __future__ import annotations

import numpy as np

from headway.server.types import RepetitionRule


class RepetitionWatch:
    """``push`` the output tokens in order. Each costs one pass over the sizes that a pattern may have, however long the answer is.

    For each size p the watch counts for how many tokens in a row, up to the newest, each equals the one p before it. A pattern of p
    tokens stands c times at the end as soon as that are p * (c - 1).
    """

    def __init__(self, rule: RepetitionRule) -> None:
        self._sizes = np.arange(rule.min_pattern_size, rule.max_pattern_size + 1)
        self._wanted = self._sizes * (rule.min_count - 1)
        self._num_equal = np.zeros_like(self._sizes)
        # The last tokens twice, so that those before the newest are a slice of a ring. Ids are not negative: -1 equals none.
        self._size = rule.max_pattern_size
        self._min_size = rule.min_pattern_size
        self._ring = np.full(2 * self._size, -1, dtype=np.int64)
        self._next = 0

    def push(self, token_id: int) -> bool:
        """Whether the answer now ends in a repetition."""
        # The token p places back is at _next + _size - p; sizes grow, so the slice runs backwards.
        end = self._next + self._size
        before = self._ring[end - self._size : end - self._min_size + 1][::-1]
        self._num_equal = np.where(before == token_id, self._num_equal + 1, 0)
        self._ring[self._next] = self._ring[self._next + self._size] = token_id
        self._next = (self._next + 1) % self._size
        return bool((self._num_equal >= self._wanted).any())
