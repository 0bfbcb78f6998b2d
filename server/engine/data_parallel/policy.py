"""Which engine gets a request. Pure: no sockets, no clock.

Each engine is weighed by its work, and a prompt whose beginning is in its cache makes it lighter for that request::

    weight = (running + on their way + 4 x waiting) x (1 + KV cache in use)
    chosen: least (weight - cached tokens / 512), among those whose weight is at most 1.25 x the least + 4
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

# A request that waits shows that there is no room for more, which one that runs does not.
_WAITING_WEIGHT = 4
# So many prompt tokens cost about as much as another request that runs: half the usual 1,000 tokens of a request's whole work.
_TOKENS_A_REQUEST = 512
# How much more than the least busy one an engine may have to do, and still get what is in its cache.
_MOST_SHARE, _MOST_MORE = 1.25, 4


@dataclass(frozen=True, slots=True)
class Load:
    """An engine's work: as it last reported it, and ``num_sent`` requests that it had not received by then."""

    num_running: int = 0
    num_waiting: int = 0
    num_sent: int = 0
    kv_cache_usage: float = 0.0  # 0 to 1

    @property
    def weight(self) -> float:
        return (self.num_running + self.num_sent + _WAITING_WEIGHT * self.num_waiting) * (1 + self.kv_cache_usage)


class Balancer:
    """Remembers only whose turn it is where engines are alike: then the one that got its last request longest ago has it."""

    def __init__(self, num_engines: int, first: int = 0) -> None:
        """``first``: which engine begins. API processes that each begin with another one don't all meet at the same."""
        self._turns = [(index - first) % num_engines for index in range(num_engines)]
        self._next_turn = count(num_engines)

    def choose(self, loads: Sequence[Load], num_cached: Sequence[int]) -> int:
        """The index of one engine. ``num_cached``: tokens of the prompt's beginning that are in each one's cache, as far as is known."""
        weights = [load.weight for load in loads]
        most = min(weights) * _MOST_SHARE + _MOST_MORE
        near = [index for index, weight in enumerate(weights) if weight <= most]
        chosen = min(near, key=lambda index: (weights[index] - num_cached[index] / _TOKENS_A_REQUEST, self._turns[index]))
        self._turns[chosen] = next(self._next_turn)
        return chosen
