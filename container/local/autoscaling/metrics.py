"""What a scaling policy's metric is now: measured on requests, on the queue, or read from the copies' own /metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from prometheus_client.parser import text_string_to_metric_families

from headway.container.local.autoscaling.load import CountedTargets, Reading
from headway.container.local.autoscaling.policies import BACKLOG, BACKLOG_PER_COPY, CONCURRENCY, INVOCATIONS, Metric
from headway.container.local.autoscaling.resources import Resource
from headway.container.local.runtime.container import Container, ContainerLost

_SCRAPE_TIMEOUT_S = 5.0
_MAX_SCRAPE_BYTES = 8 << 20
_AGGREGATES: dict[str, Callable[[Sequence[float]], float]] = {
    "Average": lambda values: sum(values) / len(values),
    "Minimum": min,
    "Maximum": max,
    "Sum": sum,
}


class Metrics:
    """``num_waiting``: requests in an endpoint's asynchronous queue."""

    def __init__(self, load: CountedTargets, num_waiting: Callable[[str], int], container: Container) -> None:
        self._load = load
        self._num_waiting = num_waiting
        self._container = container

    def reading(self, resource: Resource) -> Reading:
        return self._load.reading(resource)

    async def value(self, metric: Metric, resource: Resource, urls: Sequence[str], before: Reading) -> float | None:
        """Over the time since ``before``; None where there is nothing to measure."""
        if metric.name in (BACKLOG, BACKLOG_PER_COPY):
            waiting = self._num_waiting(resource.endpoint or "")
            return waiting / max(len(urls), 1) if metric.name == BACKLOG_PER_COPY else float(waiting)
        if not urls:
            return None
        if metric.name in INVOCATIONS or metric.name in CONCURRENCY:
            return _measured(metric, before, self._load.reading(resource), len(urls))
        scraped = await asyncio.gather(*(self._scrape(url, metric) for url in urls))
        values = [value for value in scraped if value is not None]
        return _AGGREGATES[metric.statistic](values) if values else None

    async def _scrape(self, url: str, metric: Metric) -> float | None:
        try:
            status, content = await self._container.get(f"{url}/metrics", _MAX_SCRAPE_BYTES, _SCRAPE_TIMEOUT_S)
        except ContainerLost:
            return None
        return sample(content.decode(errors="replace"), metric) if status == 200 else None


def sample(text: str, metric: Metric) -> float | None:
    """The sum of a gauge's samples that have the metric's labels; None where there is none, or the text is not Prometheus'."""
    found = []
    try:
        for family in text_string_to_metric_families(text):
            if family.type in ("gauge", "unknown"):
                found += [one.value for one in family.samples if one.name == metric.name and set(metric.labels) <= one.labels.items()]
    except ValueError:
        return None
    return sum(found) if found else None


def _measured(metric: Metric, before: Reading, now: Reading, num_copies: int) -> float | None:
    seconds = now.at - before.at
    if seconds <= 0:
        return None
    if metric.name in INVOCATIONS:
        return (now.num_taken - before.num_taken) * 60 / seconds / num_copies
    return (now.busy_s - before.busy_s) / seconds / num_copies
