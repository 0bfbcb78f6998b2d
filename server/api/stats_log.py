"""The periodic line of statistics, in vLLM's words."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from headway.server.api.draft_metrics import draft_line
from headway.server.api.throughput import Throughput
from headway.server.engine.client import EngineClient
from headway.server.stats import DraftStats
from headway.server.types import EngineStats

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Sample:
    time_s: float
    num_computed_tokens: int
    num_generated_tokens: int
    stats: EngineStats

    def has_moved_since(self, before: _Sample) -> bool:
        return (self.num_computed_tokens, self.num_generated_tokens) != (before.num_computed_tokens, before.num_generated_tokens)


class StatsLog:
    """Writes a line every ``interval_s``, at DEBUG level from the second quiet one on: no token came, and no request is open."""

    def __init__(
        self, engine: EngineClient, throughput: Throughput, interval_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._engine = engine
        self._throughput = throughput
        self._interval_s = interval_s
        self._clock = clock
        self._last = self._sample()
        self._was_quiet = True

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._interval_s)
            before = self._last
            level, line = self.next_line()
            log.log(level, "%s", line)
            if further := self._draft_line(before, self._last):
                log.log(level, "%s", further)

    def next_line(self) -> tuple[int, str]:
        """(level, line) about the time since the last call."""
        before, now = self._last, self._sample()
        is_quiet = not (now.has_moved_since(before) or now.stats.num_running or now.stats.num_waiting)
        level = logging.DEBUG if is_quiet and self._was_quiet else logging.INFO
        self._last, self._was_quiet = now, is_quiet
        return level, self._line(before, now)

    def _draft_line(self, before: _Sample, now: _Sample) -> str | None:
        drafts = now.stats.drafts
        return None if drafts is None else draft_line(before.stats.drafts or DraftStats(), drafts, max(now.time_s - before.time_s, 1e-9))

    def _sample(self) -> _Sample:
        throughput = self._throughput
        return _Sample(self._clock(), throughput.num_computed_tokens, throughput.num_generated_tokens, self._engine.stats)

    def _line(self, before: _Sample, now: _Sample) -> str:
        seconds = max(now.time_s - before.time_s, 1e-9)
        stats, info = now.stats, self._engine.info
        parts = [
            f"Avg prompt throughput: {(now.num_computed_tokens - before.num_computed_tokens) / seconds:.1f} tokens/s",
            f"Avg generation throughput: {(now.num_generated_tokens - before.num_generated_tokens) / seconds:.1f} tokens/s",
            f"Running: {stats.num_running} reqs",
            f"Waiting: {stats.num_waiting} reqs",
        ]
        if num_preempted := stats.num_preemptions - before.stats.num_preemptions:
            parts.append(f"Preemptions: {num_preempted}")
        device = "GPU" if info is not None and info.device.startswith("cuda") else "CPU"
        parts.append(f"{device} KV cache usage: {stats.kv_cache_usage:.1%}")
        if stats.prefix_cache_queries:
            parts.append(f"Prefix cache hit rate: {self._throughput.hit_rate:.1%}")
        num_engines = len(self._engine.engines)
        of = "Engine 000" if num_engines == 1 else f"{num_engines} Engines Aggregated"
        return f"{of}: {', '.join(parts)}"
