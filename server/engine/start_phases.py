"""The phases of an engine's start: told as each begins, and timed."""

from __future__ import annotations

import time
from collections.abc import Callable


class StartPhases:
    """Reports each phase as it begins and remembers how long it took."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._current: str | None = None
        self._since = time.perf_counter()
        self.seconds: dict[str, float] = {}

    def begin(self, name: str) -> None:
        self.end()
        self._current = name
        self._report(name)

    def end(self) -> None:
        now = time.perf_counter()
        if self._current is not None:
            self.seconds[self._current] = round(now - self._since, 3)
        self._current, self._since = None, now
