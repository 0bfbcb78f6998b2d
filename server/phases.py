"""The phases of start-up in the log, each with the time it took."""

from __future__ import annotations

import logging
import time

log = logging.getLogger(__name__)


class PhaseLog:
    """One line a phase, written when the next one begins: "phase loading weights 1.23 s".

    Times are time.monotonic(), a clock that all processes of a machine share: the engine says when its phases began, so that they
    are right however late its messages are read. One thread at a time calls ``enter``: the starter, later the event loop.
    """

    def __init__(self, first: str, since: float) -> None:
        self.current = first
        self.seconds: dict[str, float] = {}  # of those that have ended
        self._since = since

    def enter(self, name: str, at: float | None = None) -> None:
        now = time.monotonic() if at is None else at
        self.seconds[self.current] = now - self._since
        told(self.current, self.seconds[self.current])
        self.current, self._since = name, now


def told(name: str, seconds: float) -> None:
    """The line of one phase, for those that run beside the others too."""
    log.info("phase %s %.2f s", name, seconds)
