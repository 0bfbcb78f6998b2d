"""/metrics: vLLM's names on a registry of our own. HTTP metrics always, engine metrics unless --disable-log-stats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    Summary,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headway.server.api.process_metrics import collect_all
from headway.server.api.request_metrics import ChoiceRecorder, RequestMetrics
from headway.server.config.server import ServerConfig
from headway.server.counts import Counts
from headway.server.engine.client import EngineClient
from headway.server.types import EngineStats, GenerateRequest, SamplingParams

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_HIGH_RESOLUTION = (0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 7.5, 10, 30, 60)
_ENGINE = "0"


class Metrics:
    """All metrics of one application. ``registry`` is what is shown: with several API processes, what all of them have counted."""

    def __init__(self, config: ServerConfig, engine: EngineClient, model_name: str, counts: Counts) -> None:
        self.registry = CollectorRegistry(auto_describe=True)
        PlatformCollector(registry=self.registry)
        if counts.num_processes == 1:
            counted = self.registry
            ProcessCollector(registry=self.registry)
            GCCollector(registry=self.registry)
        else:
            counted = CollectorRegistry()
            collect_all(self.registry, counts)
        self.http = HttpMetrics(counted)
        self.requests: RequestMetrics | None = None
        if not config.observability.disable_log_stats:
            self.requests = RequestMetrics(counted, model_name, _ENGINE, counts)
            self.registry.register(_EngineCollector(config, engine, model_name))
            if counts.is_leader:  # a step is one step, however many processes hear of it
                engine.watch_steps(self._on_step)

    def render(self) -> bytes:
        text: bytes = generate_latest(self.registry)
        return text

    def add_gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A series of our own whose value is read when scraped."""
        self.registry.register(_ReadGauge(f"headway:{name}", text, read))

    def new_choice(self, request: GenerateRequest) -> ChoiceRecorder | None:
        return ChoiceRecorder(self.requests, request) if self.requests else None

    def on_request(self, n: int, samplings: Sequence[SamplingParams]) -> None:
        if self.requests:
            self.requests.params_n.observe(n)
            for sampling in samplings:
                self.requests.params_max_tokens.observe(sampling.max_tokens)

    def on_request_end(self, max_generation_tokens: int) -> None:
        if self.requests:
            self.requests.max_generation_tokens.observe(max_generation_tokens)

    def count_rejection(self) -> None:
        if self.requests:
            self.requests.rejections.inc()

    def _on_step(self, stats: EngineStats) -> None:
        if self.requests and stats.last_step_tokens:
            self.requests.iteration_tokens.observe(stats.last_step_tokens)


class HttpMetrics:
    """Requests by route template, as prometheus-fastapi-instrumentator names them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter("http_requests", "HTTP requests.", ["handler", "method", "status"], registry=registry)
        self._duration = Histogram(
            "http_request_duration_seconds",
            "Time to answer, by route.",
            ["handler", "method"],
            buckets=(0.1, 0.5, 1),
            registry=registry,
        )
        self._duration_highr = Histogram(
            "http_request_duration_highr_seconds", "Time to answer, all routes.", buckets=_HIGH_RESOLUTION, registry=registry
        )
        self._request_size = Summary("http_request_size_bytes", "Content-Length of requests.", ["handler"], registry=registry)
        self._response_size = Summary("http_response_size_bytes", "Bytes of answers.", ["handler"], registry=registry)

    def record(self, handler: str, method: str, status: int, seconds: float, *, request_bytes: int, response_bytes: int) -> None:
        method = method if method in _METHODS else "OTHER"  # a client's invention must not make a series
        self._requests.labels(handler, method, f"{status // 100}xx").inc()
        self._duration.labels(handler, method).observe(seconds)
        self._duration_highr.observe(seconds)
        self._request_size.labels(handler).observe(request_bytes)
        self._response_size.labels(handler).observe(response_bytes)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class _ReadGauge(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """One series without labels; prometheus_client's own can't be read from a function where several processes are added up."""

    def __init__(self, name: str, text: str, read: Callable[[], float]) -> None:
        self._name, self._text, self._read = name, text, read

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily(self._name, self._text, value=self._read())


class _EngineCollector(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """What the engine reports of itself, read when scraped."""

    def __init__(self, config: ServerConfig, engine: EngineClient, model_name: str) -> None:
        self._config = config
        self._engine = engine
        self._labels = {"model_name": model_name, "engine": _ENGINE}

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats
        yield self._gauge("num_requests_running", "Requests in the current batch.", stats.num_running)
        yield self._gauge("num_requests_waiting", "Requests that wait to be scheduled.", stats.num_waiting)
        yield self._gauge("kv_cache_usage_perc", "Part of the KV cache in use, 0 to 1.", stats.kv_cache_usage)
        yield self._counter("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", stats.prefix_cache_queries)
        yield self._counter("prefix_cache_hits", "Prompt tokens found in the prefix cache.", stats.prefix_cache_hits)
        yield self._counter("num_preemptions", "Requests put back for want of KV blocks.", stats.num_preemptions)
        info = self._engine.info
        if info is not None:
            cache = self._config.cache
            labels = {
                "block_size": str(info.block_size),
                "num_gpu_blocks": str(info.num_blocks),
                "cache_dtype": cache.kv_cache_dtype,
                "gpu_memory_utilization": str(cache.gpu_memory_utilization),
                "enable_prefix_caching": str(cache.enable_prefix_caching),
                "engine": _ENGINE,
            }
            family = GaugeMetricFamily("vllm:cache_config_info", "The KV cache's configuration.", labels=list(labels))
            family.add_metric(list(labels.values()), 1)
            yield family

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(f"vllm:{name}", text, labels=list(self._labels))
        family.add_metric(list(self._labels.values()), value)
        return family
