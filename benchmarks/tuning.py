"""The search for the fastest tiles of one problem: from an estimate, one field after the other, as long as there is time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextvars import copy_context
from dataclasses import dataclass, replace

import torch
from device_timing import Call, seconds_a_call
from torch import Tensor

from headway.kernels.tuned import DecodeTiles, Tiles, trying

AnyTiles = Tiles | DecodeTiles
TOLERANCE = 1e-2  # ||result - reference|| / ||reference|| in bf16; what is wrong is wrong by more
_ROUNDS = 2


@dataclass(frozen=True, slots=True)
class Inputs:
    """The same work on several inputs, and what the reference makes of the first."""

    calls: Sequence[Call]
    expected: Tensor


@dataclass(frozen=True, slots=True)
class Problem:
    """One entry of a table: ``count`` rows (see headway.kernels.tuned) of an operation at some sizes."""

    operation: str
    sizes: tuple[int, ...]
    count: int
    start: AnyTiles  # what the launcher would take
    options: Mapping[str, tuple[int, ...]]  # a field of the tiles -> values to try
    make: Callable[[], list[Inputs]]
    others: tuple[AnyTiles, ...] = ()  # tried as they are, not varied

    @property
    def name(self) -> str:
        return f"{self.operation} {'x'.join(map(str, self.sizes))} {self.count}"


@dataclass(frozen=True, slots=True)
class Found:
    """What came of a search, fastest of all that was right. ``estimate_s`` is the time of the launcher's own tiles; None if they failed."""

    tiles: AnyTiles
    seconds: float
    estimate_s: float | None
    num_timed: int
    failures: dict[AnyTiles, str]


def search(problem: Problem, device: torch.device, deadline: float, pool: Executor | None) -> Found | None:
    """None if nothing worked. Stops at ``deadline`` (of time.perf_counter) with the best so far. ``pool`` compiles."""
    with torch.inference_mode():
        trial = _Trial(problem.make(), device, deadline, pool)
        trial.run([problem.start, *problem.others])
        trial.climb(problem.options, problem.others)
    best = trial.best()
    if best is None:
        return None
    return Found(best, trial.times[best], trial.times.get(problem.start), len(trial.times), trial.failures)


class _Trial:
    """What was tried on one set of inputs."""

    def __init__(self, inputs: list[Inputs], device: torch.device, deadline: float, pool: Executor | None) -> None:
        self._inputs = inputs
        self._device = device
        self._deadline = deadline
        self._pool = pool
        self.times: dict[AnyTiles, float] = {}
        self.failures: dict[AnyTiles, str] = {}

    def best(self, but: Sequence[AnyTiles] = ()) -> AnyTiles | None:
        return min((tiles for tiles in self.times if tiles not in but), key=self.times.__getitem__, default=None)

    def climb(self, options: Mapping[str, tuple[int, ...]], but: Sequence[AnyTiles]) -> None:
        """Varies one field of the best (``but`` these) after the other, until a round of all of them finds nothing better."""
        for _ in range(_ROUNDS):
            before = self.best(but)
            for name, values in options.items():
                if (best := self.best(but)) is not None:
                    self.run([replace(best, **{name: value}) for value in values])
            if self.best(but) == before:
                break

    def run(self, candidates: Sequence[AnyTiles]) -> None:
        """Times those that are new and give the right result; the first of all whatever the time."""
        new = [tiles for tiles in dict.fromkeys(candidates) if tiles not in self.times and tiles not in self.failures]
        if self.times and self._is_late:
            return
        for tiles, failure in zip(new, self._checked(new), strict=True):
            if failure is not None:
                self.failures[tiles] = failure
            elif not (self.times and self._is_late):
                with trying(tiles):
                    seconds = [seconds_a_call(self._device, inputs.calls) for inputs in self._inputs]
                self.times[tiles] = math.exp(sum(map(math.log, seconds)) / len(seconds))

    @property
    def _is_late(self) -> bool:
        return time.perf_counter() > self._deadline

    def _checked(self, candidates: Sequence[AnyTiles]) -> Iterable[str | None]:
        """Why each does not work, or None. All are compiled side by side before any is timed."""
        if self._pool is None:
            return map(self._failure, candidates)
        futures = [self._pool.submit(copy_context().run, self._failure, tiles) for tiles in candidates]
        return [future.result() for future in futures]

    def _failure(self, tiles: AnyTiles) -> str | None:
        try:
            with trying(tiles), torch.inference_mode():
                worst = max(_relative_error(inputs) for inputs in self._inputs)
        except Exception as cause:  # Triton's are of many types: too much shared memory, a shape that a unit lacks, ...
            return f"{type(cause).__name__}: {cause}".split("\n")[0]
        return None if worst <= TOLERANCE else f"wrong by {worst:.1e}"


def _relative_error(inputs: Inputs) -> float:
    """Memory that the result may get is poisoned first: what the last candidate left there must not stand in for what is not written."""
    poison = torch.full_like(inputs.expected, math.nan)
    del poison
    result = inputs.calls[0]()
    assert isinstance(result, Tensor)
    expected = inputs.expected.float()
    error = float((result.float() - expected).norm() / expected.norm())
    return error if math.isfinite(error) else math.inf
