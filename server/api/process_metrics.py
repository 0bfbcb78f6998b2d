"""Metrics over several API processes: each counts into files of its own, and whichever is scraped adds up the files of all."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.registry import Collector

from headway.server.counts import Count, Counts

_START = "process_start_time_seconds"
_CPU = "process_cpu_seconds"


def collect_all(registry: CollectorRegistry, counts: Counts) -> None:
    """Has ``registry`` show what all API processes have counted, those that have ended included.

    The files are in PROMETHEUS_MULTIPROC_DIR, which is set before prometheus_client is imported: series that are made after that write
    there, and a registry that holds them must not be shown itself.
    """
    MultiProcessCollector(registry)
    registry.register(ApiProcessCollector(counts))


def forget_gauges(pid: int) -> None:
    """Of a process that has ended; its counters stay."""
    mark_process_dead(pid)


class ApiProcessCollector(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """The process_* series as sums over the API processes; the start is the first one's."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for pid in self._counts.pids():
            for family in _families_of(pid):
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples = [_joined(a, b) for a, b in zip(known.samples, family.samples, strict=True)]
        if _CPU in families:
            (sample,) = families[_CPU].samples
            families[_CPU].samples = [sample._replace(value=sample.value + self._counts.total(Count.ENDED_CPU_MS) / 1000)]
        yield from families.values()


def _families_of(pid: int) -> list[Metric]:
    """Empty for a process that has just ended."""
    found: list[Metric] = list(ProcessCollector(pid=lambda: pid, registry=None).collect())
    return found


def _joined(a: Metric, b: Metric) -> Metric:
    """Of two samples of the same series."""
    return a._replace(value=min(a.value, b.value) if a.name == _START else a.value + b.value)
