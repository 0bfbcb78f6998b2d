"""/metrics of the router."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import Metric

from headway.server.api.process_metrics import collect_all
from headway.server.counts import Counts
from headway.server.router.servers import Server

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NO_SERVER = "none"
_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1)


class RouterMetrics:
    """On a registry of its own; over several processes the sums of all. The label ``server`` has as many values as there are servers."""

    def __init__(self, counts: Counts | None = None) -> None:
        """``counts``: of the processes that serve together."""
        self._registry = CollectorRegistry(auto_describe=True)
        self._watched: list[Callable[[], Sequence[Server]]] = []
        self._is_shared = counts is not None and counts.num_processes > 1
        shown = self._registry
        if counts is not None and self._is_shared:
            shown = CollectorRegistry()
            collect_all(shown, counts)
        else:
            ProcessCollector(registry=shown)
        self._shown = _OfKnownServers(shown, self._known)
        self._requests = self._counter(
            "requests", "Answers by the server they came from and their status, or why no whole one came.", "server", "status"
        )
        self._retries = self._counter(
            "retries", "Requests that were sent on to another server, by the one that failed and why.", "server", "reason"
        )
        self._ejections = self._counter("ejections", "Times that a server stopped getting requests.", "server")
        self._unpaired = self._counter("unpaired", "Requests that a decode server got without a prefill server's work, by why.", "reason")
        self._healthy = self._gauge("server_healthy", "1 where the server gets requests.", "livemin")
        self._open = self._gauge("open_requests", "Requests that are open there.", "livesum")
        self._overhead = Histogram(
            "headway:router_overhead_seconds",
            "What the router itself takes before a request goes to a server and after its answer begins.",
            buckets=_SECONDS,
            registry=self._registry,
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"headway:router_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, over_processes: str) -> Gauge:
        return Gauge(f"headway:router_{name}", text, ["server"], registry=self._registry, multiprocess_mode=over_processes)

    def watch(self, servers: Callable[[], Sequence[Server]]) -> None:
        """These are known, as are those of other callers."""
        self._watched.append(servers)

    def count_answer(self, url: str, status: int | str) -> None:
        self._requests.labels(url, str(status)).inc()

    def count_retry(self, url: str, reason: str) -> None:
        self._retries.labels(url, reason).inc()

    def count_ejection(self, url: str) -> None:
        self._ejections.labels(url).inc()

    def count_unpaired(self, reason: str) -> None:
        self._unpaired.labels(reason).inc()

    def observe_overhead(self, seconds: float) -> None:
        self._overhead.observe(seconds)

    def show(self, server: Server) -> None:
        """Whether it gets requests, and how many it has."""
        self._healthy.labels(server.url).set(server.health.is_healthy)
        self._open.labels(server.url).set(server.num_open)

    def show_open(self, server: Server) -> None:
        self._open.labels(server.url).set(server.num_open)

    def forget_the_gone(self) -> None:
        """A server that is gone for good must not take memory. Files that several processes share have no way to forget it."""
        if self._is_shared:
            return
        known = self._known()
        for family in (self._requests, self._retries, self._ejections, self._healthy, self._open):
            labels = [sample.labels for metric in family.collect() for sample in metric.samples if not sample.name.endswith("_created")]
            for series in labels:
                if series["server"] not in known:
                    family.remove(*series.values())

    def _known(self) -> set[str]:
        return {NO_SERVER, *(server.url for servers in self._watched for server in servers())}

    def render(self) -> bytes:
        text: bytes = generate_latest(self._shown)
        return text


class _OfKnownServers:
    """A registry without the series of servers that are gone: what was open there may still have counted since."""

    def __init__(self, registry: CollectorRegistry, known: Callable[[], set[str]]) -> None:
        self._registry = registry
        self._known = known

    def collect(self) -> Iterator[Metric]:
        known = self._known()
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if sample.labels.get("server", NO_SERVER) in known]
            yield metric
