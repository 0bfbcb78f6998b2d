"""A step that was handed over to be computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Result = TypeVar("Result")


class StepHandle(Generic[Result]):
    """What is left to do for the result, once."""

    def __init__(self, finish: Callable[[], Result]) -> None:
        """``finish`` waits for the device and gives the result."""
        self._finish = finish
        self._results: list[Result] = []

    @classmethod
    def computed(cls, result: Result) -> StepHandle[Result]:
        """Of a step whose result is there."""
        return cls(lambda: result)

    def result(self) -> Result:
        """Waits for this step, and for none behind it. The same one each time. Raises only when nothing works any more."""
        if not self._results:
            self._results.append(self._finish())
        return self._results[0]
