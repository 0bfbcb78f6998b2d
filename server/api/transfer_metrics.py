"""Metrics of KV that comes from outside the cache, where there is a connector: another server, or copies of this one's blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from headway.server.api.series import Series
from headway.server.config.buckets import Bounds
from headway.server.engine.client import EngineClient, OneEngine
from headway.server.stats import OffloadStats, TransferStats
from headway.server.types import EngineStats

_OWN_PREFIX = "headway:"  # of what vLLM has not
_SECONDS: Bounds = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
_POST_SECONDS: Bounds = (0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1)
_BYTES: Bounds = tuple(float(2**power) for power in range(14, 37, 2))
_DESCRIPTORS: Bounds = (10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000)


class TransferCollector(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """What the engines last told."""

    def __init__(self, engine: EngineClient, series: Series, *, is_offload: bool) -> None:
        self._is_offload = is_offload
        self._engine = engine
        self._series = series

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        series = self._series
        told = [engine.stats.transfers or TransferStats() for engine in self._engine.engines]
        queries, hits = [one.num_queried_tokens for one in told], [one.num_fetched_tokens for one in told]
        yield series.counter_family("external_prefix_cache_queries", "Prompt tokens that were to come from outside the cache.", queries)
        yield series.counter_family("external_prefix_cache_hits", "Prompt tokens that came from there.", hits)
        stages = ({"in_progress": float(one.num_fetching), "completed_waiting": float(one.num_arrived)} for one in told)
        yield series.gauge_families("num_requests_kv_fetch_by_stage", "Requests whose KV comes from outside the cache.", "stage", stages)
        yield from self._offload(told) if self._is_offload else self._nixl(told)

    def _nixl(self, told: list[TransferStats]) -> Iterator[Metric]:
        series = self._series
        failed, expired = (one.num_failed for one in told), (one.num_expired for one in told)
        yield series.counter_family("nixl_num_failed_transfers", "Requests whose KV did not come.", failed)
        yield series.counter_family("nixl_num_kv_expired_reqs", "Prompts that were kept for a server that did not come.", expired)

    def _offload(self, told: list[TransferStats]) -> Iterator[Metric]:
        series, ours = self._series, replace(self._series, prefix=_OWN_PREFIX)
        copies = [one.offload or OffloadStats() for one in told]
        yield series.counter_family("kv_offload_load_bytes", "Bytes copied back.", (one.num_loaded_bytes for one in copies))
        yield series.counter_family("kv_offload_load_time", "Seconds in which ranks copied them.", (one.load_s for one in copies))
        yield series.counter_family("kv_offload_store_bytes", "Bytes copied out.", (one.num_saved_bytes for one in copies))
        yield series.counter_family("kv_offload_store_time", "Seconds in which ranks copied them.", (one.save_s for one in copies))
        missed = (one.num_missed_blocks for one in copies)
        yield series.counter_family("kv_offload_allocation_failure", "Blocks that were gone, or had no place, at their turn.", missed)
        yield series.gauge_family("kv_offload_cpu_cache_usage_perc", "Of the host's memory, 0 to 1.", (one.memory_usage for one in copies))
        yield ours.gauge_family("kv_offload_disk_usage_ratio", "Of the directory's bytes, 0 to 1.", (one.disk_usage for one in copies))
        loads, saves = (one.num_failed_loads for one in copies), (one.num_failed_saves for one in copies)
        yield ours.counter_family("kv_offload_load_failures", "Requests that computed what could not be copied back.", loads)
        yield ours.counter_family("kv_offload_store_failures", "Copies out that failed.", saves)


class OffloadSizes:
    """Observes one engine's copies of blocks. See TransferSizes."""

    def __init__(self, engine: OneEngine, series: Series) -> None:
        self._loads = series.histogram("kv_offload_load_size", "Bytes of a request's blocks that came back, of a rank.", _BYTES)
        self._saves = series.histogram("kv_offload_store_size", "Bytes of blocks that were copied out together, of a rank.", _BYTES)
        engine.watch_steps(self._on_step)

    def _on_step(self, stats: EngineStats) -> None:
        offload = stats.transfers.offload if stats.transfers is not None else None
        for sizes, histogram in ((offload.loads, self._loads), (offload.saves, self._saves)) if offload is not None else ():
            for num_bytes in sizes:
                histogram.observe(num_bytes)


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
