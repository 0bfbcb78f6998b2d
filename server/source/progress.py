"""How far a transfer is: one line every few seconds, for the log and for whoever asks what takes so long."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from headway.server.words import amount

INTERVAL_S = 3.0


class Progress:
    """Counts the bytes of one transfer and tells of them at most every INTERVAL_S. Safe to use from several threads.

    - `doing`: what is going on ("downloading org/model"); `done_bytes`: there already, so no part of the speed.
    """

    def __init__(
        self,
        doing: str,
        total_bytes: int,
        tell: Callable[[str], None] | None,
        *,
        done_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._doing = doing
        self._total = total_bytes
        self._tell = tell
        self._initial = self._done = done_bytes
        self._clock = clock
        self._lock = threading.Lock()
        self._started = self._told = clock()

    def advance(self, num_bytes: int) -> None:
        """`num_bytes` more; fewer where a part has to be fetched again."""
        with self._lock:
            line = self._count(self._done + num_bytes)
        if line and self._tell:
            self._tell(line)

    def reach(self, done_bytes: int) -> None:
        """`done_bytes` in all; less than was told before counts for nothing."""
        with self._lock:
            line = self._count(max(done_bytes, self._done))
        if line and self._tell:
            self._tell(line)

    def _count(self, done: int) -> str | None:
        self._done = done
        now = self._clock()
        if now - self._told < INTERVAL_S:
            return None
        self._told = now
        speed = max(self._done - self._initial, 0) / max(now - self._started, 1e-9)
        left = f", {_duration((self._total - self._done) / speed)} left" if speed and self._done < self._total else ""
        share = min(100 * self._done // self._total, 100) if self._total else 0
        return f"{self._doing}: {share}% of {amount(self._total)}, {amount(speed)}/s{left}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
