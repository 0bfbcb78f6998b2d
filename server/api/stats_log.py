"""The periodic line of statistics while there is work."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass

from headway.server.counts import Count, Counts
from headway.server.engine.client import EngineClient
from headway.server.types import EngineStats

log = logging.getLogger(__name__)

INTERVAL_S = 10.0


@dataclass(frozen=True, slots=True)
class _Sample:
    time_s: float
    prompt_tokens: float
    generation_tokens: float
    stats: EngineStats


class StatsLog:
    """Writes a line every interval in which something ran, and one more when it has become quiet; about all API processes."""

    def __init__(self, engine: EngineClient, counts: Counts) -> None:
        self._engine = engine
        self._counts = counts
        self._last = self._sample()
        self._was_busy = False

    async def run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_S)
            if (line := self.next_line()) is not None:
                log.info("%s", line)

    def next_line(self) -> str | None:
        """About the time since the last call; None if nothing happened then and the time before."""
        before, now = self._last, self._sample()
        self._last = now
        stats = now.stats
        is_busy = bool(stats.num_running or stats.num_waiting or now.generation_tokens > before.generation_tokens)
        is_due = is_busy or self._was_busy
        self._was_busy = is_busy
        return _line(before, now) if is_due else None

    def _sample(self) -> _Sample:
        counts = self._counts
        return _Sample(time.monotonic(), counts.total(Count.PROMPT_TOKENS), counts.total(Count.GENERATION_TOKENS), self._engine.stats)


def _line(before: _Sample, now: _Sample) -> str:
    seconds = max(now.time_s - before.time_s, 1e-9)
    stats = now.stats
    parts = [
        f"Avg prompt throughput: {(now.prompt_tokens - before.prompt_tokens) / seconds:.1f} tokens/s",
        f"Avg generation throughput: {(now.generation_tokens - before.generation_tokens) / seconds:.1f} tokens/s",
        f"Running: {stats.num_running} reqs",
        f"Waiting: {stats.num_waiting} reqs",
        f"KV cache usage: {stats.kv_cache_usage:.1%}",
    ]
    if preempted := stats.num_preemptions - before.stats.num_preemptions:
        parts.append(f"Preemptions: {preempted}")
    queries = stats.prefix_cache_queries - before.stats.prefix_cache_queries
    if queries:
        parts.append(f"Prefix cache hit rate: {(stats.prefix_cache_hits - before.stats.prefix_cache_hits) / queries:.1%}")
    return "Engine 000: " + ", ".join(parts)
