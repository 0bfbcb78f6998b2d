"""The start of several engines as one: it is in a phase once the last engine is."""

from __future__ import annotations

from collections.abc import Callable


class JointPhases:
    """Engines go through the same phases, each at its pace. ``on_phase`` hears of one when the last of them begins it, and since when
    that is so."""

    def __init__(self, num_engines: int, on_phase: Callable[[str, float], None]) -> None:
        self._num_begun = [0] * num_engines
        self._latest = 0.0  # beginning of a phase, on the clock of all processes
        self._on_phase = on_phase

    def enter(self, engine: int, name: str, since: float) -> None:
        num_before = min(self._num_begun)
        self._num_begun[engine] += 1
        self._latest = max(self._latest, since)
        if min(self._num_begun) > num_before:
            self._on_phase(name, self._latest)
