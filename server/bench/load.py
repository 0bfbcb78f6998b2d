"""Sends prompts to a server, so many at once or so many a second, and collects how each went."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from headway.server.bench.client import Session, Work
from headway.server.bench.outcome import Outcome


@dataclass(slots=True, frozen=True)
class Pace:
    """When requests start: ``rate`` a second (Poisson arrivals; infinite: at once), never more than ``concurrency`` open."""

    rate: float = math.inf
    concurrency: int | None = None


@dataclass(slots=True, frozen=True)
class Load:
    """A finished run."""

    outcomes: list[Outcome]
    wall_s: float  # from the first start to the last end


async def run_load(
    session: Session,
    work: Work,
    prompts: Sequence[str],
    pace: Pace,
    seed: int = 0,
    on_done: Callable[[Outcome], None] = lambda outcome: None,
) -> Load:
    """Runs every prompt once, in order of start. ``on_done`` is called as each ends."""
    gate = asyncio.Semaphore(pace.concurrency or len(prompts) or 1)
    outcomes: list[Outcome] = []

    async def one(prompt: str) -> None:
        try:
            outcome = await session.generate(work, prompt)
        finally:
            gate.release()
        outcomes.append(outcome)
        on_done(outcome)

    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for prompt, start in zip(prompts, arrival_times(len(prompts), pace.rate, seed), strict=True):
            await asyncio.sleep(max(0.0, started + start - time.perf_counter()))
            await gate.acquire()
            tasks.create_task(one(prompt))
    return Load(outcomes, time.perf_counter() - started)


def arrival_times(count: int, rate: float, seed: int) -> list[float]:
    """Seconds after the start: a Poisson process of ``rate`` a second, its first arrival at 0."""
    if math.isinf(rate):
        return [0.0] * count
    rng = random.Random(seed)
    times, now = [], 0.0
    for _ in range(count):
        times.append(now)
        now += rng.expovariate(rate)
    return times
