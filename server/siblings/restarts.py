"""When a process that ended is started again, and when it would be of no use."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

MAX_RESTARTS = 3
WITHIN_S = 600.0
_FIRST_DELAY_S = 1.0


class Restarts:
    """At most MAX_RESTARTS within WITHIN_S, each after a delay twice as long as the one before."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._latest: deque[float] = deque()

    def next_delay_s(self) -> float | None:
        """How long to wait before the restart that is due now; None: there have been too many."""
        now = self._now()
        while self._latest and now - self._latest[0] > WITHIN_S:
            self._latest.popleft()
        if len(self._latest) == MAX_RESTARTS:
            return None
        self._latest.append(now)
        return _FIRST_DELAY_S * 2.0 ** (len(self._latest) - 1)
