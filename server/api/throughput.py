"""What the statistics line is made of. Prometheus' own counters are for writing only."""

from __future__ import annotations

from collections import deque

from headway.server.counts import Count, Counts

_RECENT = 1000  # requests


class Throughput:
    """Tokens so far, of all API processes, and how much of this one's last prompts was found in the prefix cache."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._recent: deque[tuple[int, int]] = deque(maxlen=_RECENT)  # (tokens of the prompt, cached ones)

    def count_prompt(self, num_tokens: int, num_cached: int) -> None:
        self._counts.add(Count.COMPUTED_TOKENS, num_tokens - num_cached)
        self._recent.append((num_tokens, num_cached))

    def count_generated(self, num_tokens: int) -> None:
        self._counts.add(Count.GENERATED_TOKENS, num_tokens)

    @property
    def num_computed_tokens(self) -> int:
        """Of prompts."""
        return self._counts.total(Count.COMPUTED_TOKENS)

    @property
    def num_generated_tokens(self) -> int:
        return self._counts.total(Count.GENERATED_TOKENS)

    @property
    def hit_rate(self) -> float:
        """0.0 before the first prompt. Costs O(requests that it covers)."""
        num_tokens = sum(num_tokens for num_tokens, _ in self._recent)
        return sum(num_cached for _, num_cached in self._recent) / num_tokens if num_tokens else 0.0
