"""What the engine's core asks of a scheduler: the one of generation, or the one of pooling."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from headway.server.types import EngineStats, TokenDelta


class StepPlan(Protocol):
    @property
    def num_tokens(self) -> int: ...


class StepScheduler(Protocol):
    """Owns the queues. Plans and results are its own and its runner's. Every accepted request gets exactly one terminal delta."""

    @property
    def has_work(self) -> bool:
        """Whether a request is open or a terminal delta waits to be taken."""
        ...

    def open_request_ids(self) -> list[str]: ...

    def add(self, request: Any) -> None:
        """Raises ValueError for what it does not take."""
        ...

    def take_refused(self) -> list[TokenDelta]:
        """Terminal deltas of what was refused or has expired, once."""
        ...

    def abort(self, request_ids: Iterable[str]) -> list[TokenDelta]:
        """Ends those that are open, each with a terminal delta; others are ignored."""
        ...

    def preempt_all(self) -> None:
        """What runs gives up what it holds, and waits to start over."""
        ...

    def schedule(self) -> StepPlan | None:
        """The next step, None if there is nothing to compute. With overlapped steps it is asked while plans are out."""
        ...

    def update(self, plan: Any, result: Any) -> list[TokenDelta]:
        """Takes in what came of the oldest plan that is out."""
        ...

    def stats(self) -> EngineStats: ...
