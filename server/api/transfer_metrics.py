"""Metrics of KV that moves between servers, where there is a connector."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from headway.server.api.series import Series
from headway.server.config.buckets import Bounds
from headway.server.engine.client import EngineClient, OneEngine
from headway.server.types import EngineStats, TransferStats

_SECONDS: Bounds = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_POST_SECONDS: Bounds = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1)
_BYTES: Bounds = tuple(float(2**power) for power in range(14, 37, 2))
_DESCRIPTORS: Bounds = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)


class TransferCollector(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """What the engines last told."""

    def __init__(self, engine: EngineClient, series: Series) -> None:
        self._engine = engine
        self._series = series

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        series = self._series
        told = [engine.stats.transfers or TransferStats() for engine in self._engine.engines]
        queries, hits = [one.num_queried_tokens for one in told], [one.num_fetched_tokens for one in told]
        yield series.counter_family("external_prefix_cache_queries", "Prompt tokens that were to come from another server.", queries)
        yield series.counter_family("external_prefix_cache_hits", "Prompt tokens that came from another server.", hits)
        stages = ({"in_progress": float(one.num_fetching), "completed_waiting": float(one.num_arrived)} for one in told)
        yield series.gauge_families("num_requests_kv_fetch_by_stage", "Requests whose KV comes from another server.", "stage", stages)
        failed, expired = (one.num_failed for one in told), (one.num_expired for one in told)
        yield series.counter_family("nixl_num_failed_transfers", "Requests whose KV did not come.", failed)
        yield series.counter_family("nixl_num_kv_expired_reqs", "Prompts that were kept for a server that did not come.", expired)


class TransferSizes:
    """Observes one engine's transfers. As StepSizes, one process of a server makes one of these for each engine."""

    def __init__(self, engine: OneEngine, series: Series) -> None:
        self._seconds = series.histogram("nixl_xfer_time_seconds", "Reading a prompt's KV, of a rank.", _SECONDS)
        self._post = series.histogram("nixl_post_time_seconds", "Handing the reads to NIXL.", _POST_SECONDS)
        self._bytes = series.histogram("nixl_bytes_transferred", "Bytes of a prompt's KV, of a rank.", _BYTES)
        self._descriptors = series.histogram("nixl_num_descriptors", "Pieces of memory in them.", _DESCRIPTORS)
        engine.watch_steps(self._on_step)

    def _on_step(self, stats: EngineStats) -> None:
        for done in stats.transfers.done if stats.transfers is not None else ():
            if done.num_bytes:
                self._seconds.observe(done.transfer_s)
                self._post.observe(done.post_s)
                self._bytes.observe(done.num_bytes)
                self._descriptors.observe(done.num_descriptors)
