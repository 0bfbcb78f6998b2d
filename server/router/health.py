"""Whether a server gets requests: a state machine without a clock or a connection of its own."""

from __future__ import annotations

import enum


class State(enum.Enum):
    NEW = "new"  # not heard of yet; gets nothing
    HEALTHY = "healthy"
    EJECTED = "ejected"


class Health:
    """Of one server. It is ejected at once where it refuses, and after ``eject_after`` failures in a row where it is only late or breaks
    off: a busy one may be. A good answer to a question about its health admits it again. ``cause`` says why it gets nothing.

    A healthy server that answers 503 rests for a moment: others are preferred, but where there are none it is still asked. If all
    servers are full, that must not become the router's own outage.
    """

    def __init__(self, eject_after: int = 3) -> None:
        self.state = State.NEW
        self.cause = "it has not answered yet"
        self._eject_after = eject_after
        # Apart: a server may be well for whoever asks, and break off in all its work.
        self._num_late = 0
        self._num_broken = 0
        self._rests_until = 0.0

    @property
    def is_healthy(self) -> bool:
        return self.state is State.HEALTHY

    def is_resting(self, now: float) -> bool:
        return now < self._rests_until

    def is_well(self) -> bool:
        """It says that it is healthy. Whether it was not before."""
        self._num_late = 0
        if self.is_healthy:
            return False
        self.state, self.cause, self._num_broken = State.HEALTHY, "", 0
        return True

    def refused(self, cause: str) -> bool:
        """It takes no connection, or says itself that it is not healthy. Whether it is ejected since now."""
        was_ejected = self.state is State.EJECTED
        self.state, self.cause = State.EJECTED, cause
        return not was_ejected

    def was_late(self, cause: str) -> bool:
        """It has not said in time how it is. Whether it is ejected since now."""
        self._num_late += 1
        if self.state is State.NEW:
            self.cause = cause
        return self._num_late >= self._eject_after and self.refused(cause)

    def broke(self, cause: str) -> bool:
        """It did not answer a request to the end. Whether it is ejected since now."""
        self._num_broken += 1
        return self._num_broken >= self._eject_after and self.refused(cause)

    def answered(self) -> None:
        """It answered a request to the end."""
        self._num_broken = 0

    def rest(self, until: float) -> None:
        self._rests_until = until
