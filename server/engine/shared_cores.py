"""How many threads compute a step on a CPU whose cores other processes use too.

The threads of a step wait for each other some hundred times. One that lost its core to another process is waited for until the system gives
it one again, so that two threads can take ten times as long as one.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from headway.server.config.plan import Plan, is_grouped
from headway.server.models.base import ModelConfig
from headway.server.words import plural

log = logging.getLogger(__name__)

_STEPS = 16  # that are looked at together: one after the other, since threads that slept are slow at first
_TRIED_STEPS = 4
# Times its CPU time that the thread takes by the clock, from which on others seem to have had the cores: with 8 requests on 2 cores 1.01 to
# 1.20 beside the API process and a client, 2.0 beside one more busy process, even one of the lowest priority (2026-11).
_LOST = 1.4
_PAUSE_S = 0.1  # between steps, which is none of theirs
_BETTER = 0.8  # of the time of a step, to change the number
_MUCH_WORSE = 2.0  # ends a trial with its first step
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 60.0  # between trials; twice as long after each that found nothing
_ROWS_OF_A_STEP = 6  # that would take as long as what a step takes whatever its rows


@dataclass(frozen=True, slots=True)
class _Step:
    clock_s: float
    cpu_s: float  # of the thread that steps
    cost: float  # seconds by the clock, comparable between steps of few and of many rows


class SharedCores:
    """Of one engine, whose steps come one after the other from one thread."""

    def __init__(
        self,
        most: int,
        set_threads: Callable[[int], None] = torch.set_num_threads,
        clock: Callable[[], float] = time.perf_counter,
        cpu_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """``most``: threads on cores of their own."""
        self.num_threads = most
        self._most = most
        self._set_threads = set_threads
        self._clock, self._cpu_clock = clock, cpu_clock
        self._steps: deque[_Step] = deque(maxlen=_STEPS)
        self._trial: _Trial | None = None
        self._ended_s = 0.0  # the step before
        self._wait_s, self._next_trial = _FIRST_WAIT_S, 0.0

    @contextmanager
    def step(self, num_decodes: int, num_tokens: int) -> Iterator[None]:
        """Around what a step computes. Steps with prompts are computed, and not looked at."""
        began, cpu_began = self._clock(), self._cpu_clock()
        if began - self._ended_s > _PAUSE_S:
            self._steps.clear()
        yield
        self._ended_s = self._clock()
        if num_decodes != num_tokens or not num_decodes:
            return
        seconds = self._ended_s - began
        self._look(_Step(seconds, self._cpu_clock() - cpu_began, seconds / (num_decodes + _ROWS_OF_A_STEP)))

    def _look(self, step: _Step) -> None:
        if self._trial is not None:
            self._trial.costs.append(step.cost)
            if self._trial.is_over:
                self._decide(self._trial)
            return
        self._steps.append(step)
        if len(self._steps) < _STEPS or self._clock() < self._next_trial:
            return
        if (other := self._other()) is not None:
            self._trial = _Trial(self.num_threads, statistics.median(each.cost for each in self._steps))
            self._use(other)
        self._steps.clear()

    def _other(self) -> int | None:
        """The number to try: fewer where others have the cores, more where they may have left."""
        lost = sum(each.clock_s for each in self._steps) / max(sum(each.cpu_s for each in self._steps), 1e-9)
        if self.num_threads > 1 and lost > _LOST:
            return self.num_threads // 2
        return min(self.num_threads * 2, self._most) if self.num_threads < self._most else None

    def _decide(self, trial: _Trial) -> None:
        self._trial = None
        self._steps.clear()
        if trial.is_better:
            self._wait_s = _FIRST_WAIT_S
            log.info(
                "Steps are computed by %s of %d: other processes %s (a step takes %.2f of the time that it took by %d)",
                plural(self.num_threads, "thread"),
                self._most,
                "use the cores" if self.num_threads < trial.num_threads else "leave the cores again",
                trial.ratio,
                trial.num_threads,
            )
        else:
            self._wait_s = min(self._wait_s * 2, _LONGEST_WAIT_S)
            self._use(trial.num_threads)
        self._next_trial = self._clock() + self._wait_s

    def _use(self, num_threads: int) -> None:
        self.num_threads = num_threads
        self._set_threads(num_threads)


def shared_cores(plan: Plan, config: ModelConfig, num_ranks: int) -> SharedCores | None:
    """None where a step might come to other results with other threads: only the compiled products of grouped weights never do. Ranks
    wait for each other, which looks as if others had the cores."""
    threads = torch.get_num_threads()
    is_exact = is_grouped(plan.quantization) and not getattr(config, "num_experts", 0)
    return SharedCores(threads) if is_exact and num_ranks == 1 and threads > 1 else None


class _Trial:
    """Of another number of threads than ``num_threads``, with which a step costs ``cost``."""

    def __init__(self, num_threads: int, cost: float) -> None:
        self.num_threads = num_threads
        self.costs: list[float] = []
        self._cost = cost

    @property
    def ratio(self) -> float:
        return statistics.median(self.costs) / self._cost

    @property
    def is_over(self) -> bool:
        return len(self.costs) == _TRIED_STEPS or self.costs[-1] > _MUCH_WORSE * self._cost

    @property
    def is_better(self) -> bool:
        return len(self.costs) == _TRIED_STEPS and self.ratio < _BETTER
