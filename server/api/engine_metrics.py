"""Metrics of the engines themselves: their state when it is scraped, and the size of their steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from headway.server.api.series import Series, info_family
from headway.server.config.buckets import bounds_of
from headway.server.config.cache import CacheConfig
from headway.server.config.observability import ObservabilityConfig
from headway.server.config.server import ServerConfig
from headway.server.engine.client import EngineClient, OneEngine
from headway.server.types import EngineInfo, EngineStats

_SLEEP_STATES = ("awake", "weights_offloaded", "discard_all")  # by level


class EngineCollector(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """What the engines last told of themselves."""

    def __init__(self, config: ServerConfig, engine: EngineClient, series: Series) -> None:
        self._cache = config.cache
        self._has_old_names = config.observability.enable_old_metric_names
        self._engine = engine
        self._series = series

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        stats = [engine.stats for engine in self._engine.engines]
        yield from self._queues(stats)
        yield from self._kv_cache(stats)
        if self._has_old_names:
            yield from self._old_names(stats)
        infos = [engine.info for engine in self._engine.engines]
        if self._engine.info is not None:
            labels = [_cache_config(self._cache, info, index) for index, info in enumerate(infos) if info is not None]
            yield info_family(self._series.name("cache_config_info"), "The KV cache's configuration.", *labels)

    def _queues(self, stats: Sequence[EngineStats]) -> Iterator[Metric]:
        series = self._series
        yield series.gauge_family("num_requests_running", "Requests in the current batch.", (one.num_running for one in stats))
        yield series.gauge_family("num_requests_waiting", "Requests that wait to be scheduled.", (one.num_waiting for one in stats))
        # A request here waits for room and for nothing else.
        reasons = ({"capacity": float(one.num_waiting), "deferred": 0.0} for one in stats)
        yield series.gauge_families("num_requests_waiting_by_reason", "Requests that wait, by what for.", "reason", reasons)
        levels = (engine.sleep_level for engine in self._engine.engines)
        states = ({state: float(level == at) for at, state in enumerate(_SLEEP_STATES)} for level in levels)
        yield series.gauge_families("engine_sleep_state", "1 for the state that the engine is in.", "sleep_state", states)
        preemptions = (one.num_preemptions for one in stats)
        yield series.counter_family("num_preemptions", "Requests put back for want of KV blocks.", preemptions)

    def _kv_cache(self, stats: Sequence[EngineStats]) -> Iterator[Metric]:
        series = self._series
        queries, hits = [one.prefix_cache_queries for one in stats], [one.prefix_cache_hits for one in stats]
        yield series.gauge_family("kv_cache_usage_perc", "Part of the KV cache in use, 0 to 1.", (one.kv_cache_usage for one in stats))
        yield series.counter_family("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", queries)
        yield series.counter_family("prefix_cache_hits", "Prompt tokens found in the prefix cache.", hits)

    def _old_names(self, stats: Sequence[EngineStats]) -> Iterator[Metric]:
        series = self._series
        queries, hits = [one.prefix_cache_queries for one in stats], [one.prefix_cache_hits for one in stats]
        yield series.gauge_family("gpu_cache_usage_perc", "Old name of kv_cache_usage_perc.", (one.kv_cache_usage for one in stats))
        yield series.counter_family("gpu_prefix_cache_queries", "Old name of prefix_cache_queries.", queries)
        yield series.counter_family("gpu_prefix_cache_hits", "Old name of prefix_cache_hits.", hits)


def _cache_config(cache: CacheConfig, info: EngineInfo, engine: int) -> dict[str, str]:
    """Every option about the cache, with what was decided in place of what was asked, under vLLM's names."""
    asked = {name: str(value) for name, value in cache.model_dump().items()}
    asked["cache_dtype"] = asked.pop("kv_cache_dtype")
    return asked | {"block_size": str(info.block_size), "num_gpu_blocks": str(info.num_blocks), "engine": str(engine)}


class StepSizes:
    """Observes one engine's steps. One process of a server makes one of these for each engine: every process hears of every step."""

    def __init__(self, observability: ObservabilityConfig, engine: OneEngine, series: Series) -> None:
        bounds = bounds_of("iteration_tokens", observability.custom_histogram_buckets)
        self._tokens = series.histogram("iteration_tokens_total", "Tokens in an engine step.", bounds)
        self._num_steps = 0
        engine.watch_steps(self._on_step)

    def _on_step(self, stats: EngineStats) -> None:
        if stats.num_steps > self._num_steps:  # else the engine told of aborts only
            self._num_steps = stats.num_steps
            self._tokens.observe(stats.last_step_tokens)
