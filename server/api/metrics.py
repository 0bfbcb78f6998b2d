"""/metrics: vLLM's names on registries of our own. HTTP metrics always, engine metrics unless --disable-log-stats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Literal

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headway.server.api.draft_metrics import DraftCollector
from headway.server.api.engine_metrics import EngineCollector, StepSizes
from headway.server.api.expert_metrics import ExpertCollector
from headway.server.api.gpu_metrics import GpuMetrics
from headway.server.api.http_metrics import HttpMetrics, WebSocketMetrics
from headway.server.api.process_metrics import collect_all
from headway.server.api.request_metrics import ChoiceRecorder, RejectionMetrics, RequestMetrics
from headway.server.api.series import Series
from headway.server.api.sleep_metrics import SleepMetrics
from headway.server.api.throughput import Throughput
from headway.server.api.transfer_metrics import OffloadSizes, TransferCollector, TransferSizes
from headway.server.config.buckets import bounds_of
from headway.server.config.server import ServerConfig
from headway.server.counts import Counts
from headway.server.engine.client import EngineClient
from headway.server.errors import QueueLimit
from headway.server.types import EngineInfo, FinishReason, GenerateRequest, PoolRequest, RequestTimes, SamplingParams

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """All metrics of one application.

    On two registries: what this process counts, and collectors of what is known elsewhere, which are the same in every process. Beside
    other API processes what it counts is in files, and one of the collectors adds up those of all.
    """

    def __init__(self, config: ServerConfig, engine: EngineClient, model_name: str, counts: Counts) -> None:
        self._counted = CollectorRegistry(auto_describe=True)
        self._collected = CollectorRegistry()
        PlatformCollector(registry=self._collected)
        self._is_alone = counts.num_processes == 1
        if self._is_alone:
            ProcessCollector(registry=self._collected)
            GCCollector(registry=self._collected)
        else:
            collect_all(self._collected, counts)
        self._gpus = GpuMetrics()
        self.add(self._gpus)
        self.http = HttpMetrics(self._counted)
        self.throughput = Throughput(counts)
        self.has_statistics = not config.observability.disable_log_stats
        self._options = config.observability
        self._series = Series(self._counted, config.observability.metrics_prefix, model_name)
        self._num_engines = len(engine.engines)
        self._requests: list[RequestMetrics] = []  # of each engine; empty until they are ready, and without statistics
        self._rejections: RejectionMetrics | None = None
        self._websockets: WebSocketMetrics | None = None
        self._sleep: SleepMetrics | None = None
        if self.has_statistics:
            custom = config.observability.custom_histogram_buckets
            self._websockets = WebSocketMetrics(self._series, bounds_of("request_latency", custom))
            self.add(EngineCollector(config, engine, self._series))
            if counts.is_leader:  # a step is one step, however many processes hear of it
                for index, one in enumerate(engine.engines):
                    StepSizes(config.observability, one, self._series.of_engine(index))
            is_offload = config.kv_transfer.offload is not None
            if is_offload or config.kv_transfer.settings is not None:
                self.add(TransferCollector(engine, self._series, is_offload=is_offload))
                for index, one in enumerate(engine.engines if counts.is_leader else ()):
                    (OffloadSizes if is_offload else TransferSizes)(one, self._series.of_engine(index))
            if num_drafts := config.speculative.num_drafts:
                self.add(DraftCollector(engine, self._series, num_drafts))
            if config.parallel.enable_eplb:
                self.add(ExpertCollector(engine, self._series))
            if config.development.enable_sleep_mode:
                self._sleep = SleepMetrics(self._series)

    def on_ready(self, info: EngineInfo) -> None:
        """To be called once; there are no requests before."""
        if self.has_statistics:
            self._requests = [
                RequestMetrics(self._series.of_engine(index), self._options, info.max_model_len, self.throughput)
                for index in range(self._num_engines)
            ]
            self._rejections = RejectionMetrics(self._series)

    async def render(self) -> bytes:
        await self._gpus.refresh()
        counted: bytes = generate_latest(self._counted) if self._is_alone else b""
        collected: bytes = generate_latest(self._collected)
        return counted + collected

    def add(self, collector: Collector) -> None:
        """Its series are read when scraped."""
        self._collected.register(collector)

    def add_gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A series of our own whose value is read when scraped."""
        self.add(_ReadGauge(f"headway:{name}", text, read))

    # Of requests; ``engine`` is the index of the one that has it.

    def new_choice(self, request: GenerateRequest, engine: int) -> ChoiceRecorder | None:
        return ChoiceRecorder(self._requests[engine], request) if self._requests else None

    def on_request(self, n: int, samplings: Sequence[SamplingParams], engine: int) -> None:
        if self._requests:
            self._requests[engine].on_request(n, samplings)

    def on_request_end(self, max_generation_tokens: int, engine: int) -> None:
        if self._requests:
            self._requests[engine].on_request_end(max_generation_tokens)

    def on_pooled(self, request: PoolRequest, reason: FinishReason, times: RequestTimes | None, engine: int) -> None:
        if self._requests:
            self._requests[engine].count_pooled(request, reason, times)

    def count_rejection(self, reason: QueueLimit) -> None:
        if self._rejections:
            self._rejections.count(reason)

    def timed_sleep(self, operation: Literal["sleep", "wake_up"]) -> AbstractContextManager[None]:
        return self._sleep.timed(operation) if self._sleep else nullcontext()

    @contextmanager
    def websocket_connected(self) -> Iterator[None]:
        """Around the life of one WebSocket."""
        if self._websockets is None:
            yield
            return
        with self._websockets.connected():
            yield


class _ReadGauge(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name, self._text, self._value = name, text, read

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(self._name, self._text, self._value())
