"""How long one answer took, for its `metrics`."""

from __future__ import annotations

import time
from typing import Any

from headway.server.types import RequestTimes


class Timing:
    """``on_tokens`` with each piece of the answer, ``on_times`` with what the engine tells of its own. ``arrival`` is time.time()."""

    def __init__(self, arrival: float) -> None:
        self._arrival = arrival
        self._first: float | None = None
        self._last = 0.0
        self._num_tokens = 0
        self._queued_s: float | None = None

    def on_tokens(self, num_tokens: int) -> None:
        if num_tokens:
            self._last = time.time()
            self._first = self._last if self._first is None else self._first
            self._num_tokens += num_tokens

    def on_times(self, times: RequestTimes | None) -> None:
        if times is not None and times.scheduled is not None:
            self._queued_s = times.scheduled - times.arrival

    def as_dict(self) -> dict[str, Any]:
        """Milliseconds. mean_itl_ms and tokens_per_second are those between the first token and the last."""
        first_s = generation_s = mean_s = rate = None
        if self._first is not None:
            first_s, generation_s = self._first - self._arrival, self._last - self._first
            if self._num_tokens > 1 and generation_s > 0:
                mean_s = generation_s / (self._num_tokens - 1)
                rate = 1 / mean_s
        return {
            "time_to_first_token_ms": _ms(first_s),
            "generation_time_ms": _ms(generation_s),
            "queue_time_ms": _ms(self._queued_s),
            "mean_itl_ms": _ms(mean_s),
            "tokens_per_second": None if rate is None else round(rate, 3),
            "speculative_decoding": None,
        }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
