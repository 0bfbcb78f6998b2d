"""/metrics of the router."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headway.server.router.servers import Server

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NO_SERVER = "none"
_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1)


class RouterMetrics:
    """On a registry of its own. The label ``server`` has as many values as the list of servers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=True)
        self._servers: Callable[[], Sequence[Server]] = tuple
        ProcessCollector(registry=self._registry)
        self._requests = self._counter(
            "requests", "Answers by the server they came from and their status, or why no whole one came.", "status"
        )
        self._retries = self._counter("retries", "Requests that were sent on to another server, by the one that failed and why.", "reason")
        self._ejections = self._counter("ejections", "Times that a server stopped getting requests.")
        self._overhead = Histogram(
            "headway:router_overhead_seconds",
            "What the router itself takes before a request goes to a server and after its answer begins.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"headway:router_{name}", text, ["server", *labels], registry=self._registry)

    def watch(self, servers: Callable[[], Sequence[Server]]) -> None:
        """Reads at each scrape which there are and what they know themselves."""
        self._servers = servers
        self._registry.register(_ServerGauges(servers))

    def count_answer(self, url: str, status: int | str) -> None:
        self._requests.labels(url, str(status)).inc()

    def count_retry(self, url: str, reason: str) -> None:
        self._retries.labels(url, reason).inc()

    def count_ejection(self, url: str) -> None:
        self._ejections.labels(url).inc()

    def observe_overhead(self, seconds: float) -> None:
        self._overhead.observe(seconds)

    def forget_the_gone(self) -> None:
        """A server that is gone for good must not stay in every scrape; what was open there counts until the next one."""
        known = {NO_SERVER, *(server.url for server in self._servers())}
        for counter in (self._requests, self._retries, self._ejections):
            labels = [sample.labels for metric in counter.collect() for sample in metric.samples if sample.name.endswith("_total")]
            for series in labels:
                if series["server"] not in known:
                    counter.remove(*series.values())

    def render(self) -> bytes:
        self.forget_the_gone()
        text: bytes = generate_latest(self._registry)
        return text


class _ServerGauges(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    def __init__(self, servers: Callable[[], Sequence[Server]]) -> None:
        self._servers = servers

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        healthy = GaugeMetricFamily("headway:router_server_healthy", "1 where the server gets requests.", labels=["server"])
        num_open = GaugeMetricFamily("headway:router_open_requests", "Requests that are open there.", labels=["server"])
        for server in self._servers():
            healthy.add_metric([server.url], float(server.health.is_healthy))
            num_open.add_metric([server.url], server.num_open)
        yield from (healthy, num_open)
