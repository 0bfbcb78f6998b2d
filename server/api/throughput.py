"""What the statistics line is made of. Prometheus' own counters are for writing only."""

from __future__ import annotations

from collections import deque

_RECENT = 1000  # requests


class Throughput:
    """Tokens so far, and how much of the last requests' prompts was found in the prefix cache."""

    def __init__(self) -> None:
        self.num_computed_tokens = 0  # of prompts
        self.num_generated_tokens = 0
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RECENT)  # (tokens of the prompt, cached ones)

    def count_prompt(self, num_tokens: int, num_cached: int) -> None:
        self.num_computed_tokens += num_tokens - num_cached
        self._recent.append((num_tokens, num_cached))

    @property
    def hit_rate(self) -> float:
        """0.0 before the first prompt. Costs O(requests that it covers)."""
        num_tokens = sum(num_tokens for num_tokens, _ in self._recent)
        return sum(num_cached for _, num_cached in self._recent) / num_tokens if num_tokens else 0.0
