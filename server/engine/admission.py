"""How much an engine takes on at a time: open requests, and prompt tokens that still have to be computed."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from headway.server.counts import Count, Counts
from headway.server.errors import HeadwayError, QueueFull, RequestError
from headway.server.types import EngineRequest
from headway.server.words import plural

# Beyond these a client does better to try elsewhere: the OpenAI client takes no Retry-After above 60 s for serious.
_LEAST_RETRY_S, _MOST_RETRY_S = 1, 60


class Admission:
    """Counts what is open, over all API processes, and refuses what would be too much. None is no limit."""

    def __init__(
        self, max_requests: int | None, max_prompt_tokens: int | None, counts: Counts, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_requests = max_requests
        self._max_prompt_tokens = max_prompt_tokens
        self._counts = counts
        self._open: set[str] = set()
        self._prefilling: dict[str, int] = {}  # open request without a token yet -> its prompt's length
        self._ended = _Rate(now)
        self._prefilled = _Rate(now)

    def check(self, num_requests: int, num_prompt_tokens: int) -> None:
        """Raises QueueFull if so much more would be too much now, RequestError if it always would."""
        self._check_requests(num_requests, self._counts.total(Count.OPEN_REQUESTS))
        self._check_tokens(num_prompt_tokens, self._counts.total(Count.PREFILL_TOKENS))

    def admit(self, requests: Sequence[EngineRequest]) -> None:
        """All of them, or none. Raises as ``check`` does."""
        num_requests, num_tokens = len(requests), sum(len(request.prompt_token_ids) for request in requests)
        # First counted, then checked: so two processes that ask at the same time can't both have the last place.
        self._count(num_requests, num_tokens)
        try:
            self._check_requests(num_requests, self._counts.total(Count.OPEN_REQUESTS) - num_requests)
            self._check_tokens(num_tokens, self._counts.total(Count.PREFILL_TOKENS) - num_tokens)
        except HeadwayError:
            self._count(-num_requests, -num_tokens)
            raise
        for request in requests:
            self._open.add(request.request_id)
            self._prefilling[request.request_id] = len(request.prompt_token_ids)

    def _check_requests(self, num_more: int, num_open: int) -> None:
        limit = self._max_requests
        if limit is None:
            return
        if num_more > limit:
            raise RequestError(
                f"The request asks for {num_more} answers at once; this server takes {limit} at most "
                "(--max-num-queued-reqs). Ask for fewer.",
                "n",
            )
        excess = num_open + num_more - limit
        if excess > 0:
            raise QueueFull(
                f"{plural(num_open, 'request')} open, and --max-num-queued-reqs allows {limit}: try again later.",
                _retry_after(excess, self._ended),
                "max_num_queued_reqs",
            )

    def _check_tokens(self, num_more: int, num_prefilling: int) -> None:
        limit = self._max_prompt_tokens
        if limit is None:
            return
        if num_more > limit:
            raise RequestError(
                f"The request's prompts have {num_more} tokens, over all its answers; this server takes {limit} at a time "
                "(--max-num-queued-tokens). Send less at once."
            )
        excess = num_prefilling + num_more - limit
        if excess > 0:
            raise QueueFull(
                f"{plural(num_prefilling, 'prompt token')} to be computed, and --max-num-queued-tokens allows {limit}: try again later.",
                _retry_after(excess, self._prefilled),
                "max_num_queued_tokens",
            )

    def _count(self, num_requests: int, num_tokens: int) -> None:
        self._counts.add(Count.OPEN_REQUESTS, num_requests)
        self._counts.add(Count.PREFILL_TOKENS, num_tokens)

    def on_tokens(self, request_id: str) -> None:
        """Some have come, so that the prompt is computed."""
        num_tokens = self._prefilling.pop(request_id, 0)
        if num_tokens:
            self._counts.add(Count.PREFILL_TOKENS, -num_tokens)
            self._prefilled.add(num_tokens)

    def on_end(self, request_id: str) -> None:
        """Safe to repeat."""
        if request_id in self._open:
            self._open.remove(request_id)
            self._counts.add(Count.OPEN_REQUESTS, -1)
            self._ended.add(1)
            self.on_tokens(request_id)


class _Rate:
    """How much of something comes to pass a second, by the latest of it."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._events: deque[tuple[float, int]] = deque(maxlen=64)

    def add(self, amount: int) -> None:
        self._events.append((self._now(), amount))

    def seconds_for(self, amount: int) -> float:
        """0.0 where nothing is known yet."""
        if not self._events:
            return 0.0
        elapsed = self._now() - self._events[0][0]
        return amount * elapsed / sum(happened for _, happened in self._events)


def _retry_after(excess: int, rate: _Rate) -> int:
    return min(max(math.ceil(rate.seconds_for(excess)), _LEAST_RETRY_S), _MOST_RETRY_S)
