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
        self._failure: Exception | None = None

    @classmethod
    def computed(cls, result: Result) -> StepHandle[Result]:
        """Of a step whose result is there."""
        return cls(lambda: result)

    def result(self) -> Result:
        """Waits for this step, and for none behind it. The same one each time. Raises only when nothing works any more, and then the same
        each time: whoever is half told of a step's tokens must not hear of them twice."""
        if self._failure is not None:
            raise self._failure
        if not self._results:
            try:
                self._results.append(self._finish())
            except Exception as failure:
                self._failure = failure
                raise
        return self._results[0]
