"""How much each variant and inference component has to do: requests, counted where they take a copy."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from headway.container.local.autoscaling.resources import Resource
from headway.container.local.targets import AsyncInference, Target, Targets, Wish


@dataclass(frozen=True, slots=True)
class Reading:
    """Sums since the runtime's start: requests taken, and seconds times open requests. ``at`` is monotonic."""

    at: float = 0.0
    num_taken: int = 0
    busy_s: float = 0.0


@dataclass(slots=True)
class _Meter:
    num_taken: int = 0
    num_open: int = 0
    busy_s: float = 0.0
    changed: float = 0.0

    def change(self, by: int) -> None:
        now = time.monotonic()
        self.busy_s += self.num_open * (now - self.changed)
        self.num_open += by
        self.changed = now


class CountedTargets:
    """``targets`` with each lease counted. Belongs to one event loop."""

    def __init__(self, targets: Targets) -> None:
        self._targets = targets
        self._meters: defaultdict[Resource, _Meter] = defaultdict(_Meter)

    @contextlib.contextmanager
    def lease(self, endpoint: str, wish: Wish) -> Iterator[Target]:
        with self._targets.lease(endpoint, wish) as target:
            meter = self._meters[Resource(component=wish.component) if wish.component else Resource(endpoint, target.variant)]
            meter.num_taken += 1
            meter.change(+1)
            try:
                yield target
            finally:
                meter.change(-1)

    def async_inference(self, endpoint: str) -> AsyncInference | None:
        return self._targets.async_inference(endpoint)

    def open_session(self, endpoint: str, session: str, target: Target) -> None:
        self._targets.open_session(endpoint, session, target)

    def close_session(self, endpoint: str, session: str) -> None:
        self._targets.close_session(endpoint, session)

    def reading(self, resource: Resource) -> Reading:
        meter = self._meters.get(resource)
        if meter is None:
            return Reading(time.monotonic())
        meter.change(0)
        return Reading(meter.changed, meter.num_taken, meter.busy_s)
