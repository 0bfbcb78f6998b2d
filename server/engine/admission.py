"""How much an engine takes on at a time: open requests, and prompt tokens that still have to be computed."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Sequence

from headway.server.errors import QueueFull, RequestError
from headway.server.types import GenerateRequest
from headway.server.words import plural

# Beyond these a client does better to try elsewhere: the OpenAI client takes no Retry-After above 60 s for serious.
_LEAST_RETRY_S, _MOST_RETRY_S = 1, 60


class Admission:
    """Counts what is open, and refuses what would be too much. None is no limit."""

    def __init__(self, max_requests: int | None, max_prompt_tokens: int | None, now: Callable[[], float] = time.monotonic) -> None:
        self._max_requests = max_requests
        self._max_prompt_tokens = max_prompt_tokens
        self._open: set[str] = set()
        self._prefilling: dict[str, int] = {}  # open request without a token yet -> its prompt's length
        self._num_prompt_tokens = 0  # the sum of those
        self._ended = _Rate(now)
        self._prefilled = _Rate(now)

    def check(self, num_requests: int, num_prompt_tokens: int) -> None:
        """Raises QueueFull if so much more would be too much now, RequestError if it always would."""
        if self._max_requests is not None:
            if num_requests > self._max_requests:
                raise RequestError(
                    f"The request asks for {num_requests} answers at once; this server takes {self._max_requests} at most "
                    "(--max-num-queued-reqs). Ask for fewer.",
                    "n",
                )
            excess = len(self._open) + num_requests - self._max_requests
            if excess > 0:
                raise QueueFull(
                    f"{plural(len(self._open), 'request')} open, and --max-num-queued-reqs allows {self._max_requests}: try again later.",
                    _retry_after(excess, self._ended),
                    "max_num_queued_reqs",
                )
        if self._max_prompt_tokens is not None:
            if num_prompt_tokens > self._max_prompt_tokens:
                raise RequestError(
                    f"The request's prompts have {num_prompt_tokens} tokens, over all its answers; this server takes "
                    f"{self._max_prompt_tokens} at a time (--max-num-queued-tokens). Send less at once."
                )
            excess = self._num_prompt_tokens + num_prompt_tokens - self._max_prompt_tokens
            if excess > 0:
                raise QueueFull(
                    f"{plural(self._num_prompt_tokens, 'prompt token')} to be computed, and --max-num-queued-tokens allows "
                    f"{self._max_prompt_tokens}: try again later.",
                    _retry_after(excess, self._prefilled),
                    "max_num_queued_tokens",
                )

    def admit(self, requests: Sequence[GenerateRequest]) -> None:
        """All of them, or none. Raises as ``check`` does."""
        self.check(len(requests), sum(len(request.prompt_token_ids) for request in requests))
        for request in requests:
            num_tokens = len(request.prompt_token_ids)
            self._open.add(request.request_id)
            self._prefilling[request.request_id] = num_tokens
            self._num_prompt_tokens += num_tokens

    def on_tokens(self, request_id: str) -> None:
        """Some have come, so that the prompt is computed."""
        num_tokens = self._prefilling.pop(request_id, 0)
        if num_tokens:
            self._num_prompt_tokens -= num_tokens
            self._prefilled.add(num_tokens)

    def on_end(self, request_id: str) -> None:
        """Safe to repeat."""
        if request_id in self._open:
            self._open.remove(request_id)
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
