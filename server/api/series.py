"""How vLLM's metrics are named and labelled here: the one place that knows the prefix and the labels that all of them have."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from headway.server.config.buckets import Bounds

_Family = TypeVar("_Family", Counter, Histogram)
_LABELS = ("model_name", "engine")


@dataclass(frozen=True, slots=True)
class Series:
    """Makes them. ``registry`` gets what this process counts, each series labelled with ``engine``; families are for collectors, which
    others count for: they take the values of all engines, in order."""

    registry: CollectorRegistry
    prefix: str
    model_name: str
    engine: str = "0"
    created: float = field(default_factory=time.time)
    known: dict[str, Any] = field(default_factory=dict)  # families in the registry, which the series of all engines share

    def of_engine(self, index: int) -> Series:
        return replace(self, engine=str(index))

    def name(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def counter(self, name: str, text: str) -> Counter:
        return self._family(Counter, name, text).labels(self.model_name, self.engine)

    def counters(self, name: str, text: str, label: str, values: tuple[str, ...]) -> dict[str, Counter]:
        """One for each value of a further label, there from the start."""
        family = self._family(Counter, name, text, label)
        return {value: family.labels(self.model_name, self.engine, value) for value in values}

    def histogram(self, name: str, text: str, bounds: Bounds) -> Histogram:
        return self._family(Histogram, name, text, buckets=bounds).labels(self.model_name, self.engine)

    def _family(self, kind: Callable[..., _Family], name: str, text: str, *labels: str, **facts: Any) -> _Family:
        if name not in self.known:
            self.known[name] = kind(self.name(name), text, [*_LABELS, *labels], registry=self.registry, **facts)
        family: _Family = self.known[name]
        return family

    def gauge_family(self, name: str, text: str, values: Iterable[float]) -> Metric:
        family = GaugeMetricFamily(self.name(name), text, labels=_LABELS)
        for engine, value in enumerate(values):
            family.add_metric([self.model_name, str(engine)], value)
        return family

    def gauge_families(self, name: str, text: str, label: str, values: Iterable[Mapping[str, float]]) -> Metric:
        family = GaugeMetricFamily(self.name(name), text, labels=[*_LABELS, label])
        for engine, numbers in enumerate(values):
            for value, number in numbers.items():
                family.add_metric([self.model_name, str(engine), value], number)
        return family

    def counter_family(self, name: str, text: str, values: Iterable[float]) -> Metric:
        family = CounterMetricFamily(self.name(name), text, labels=_LABELS)
        for engine, value in enumerate(values):
            family.add_metric([self.model_name, str(engine)], value, created=self.created)
        return family

    def counter_families(self, name: str, text: str, label: str, values: Iterable[Mapping[str, float]]) -> Metric:
        family = CounterMetricFamily(self.name(name), text, labels=[*_LABELS, label])
        for engine, numbers in enumerate(values):
            for value, number in numbers.items():
                family.add_metric([self.model_name, str(engine), value], number, created=self.created)
        return family


def info_family(name: str, text: str, *labels: Mapping[str, str], value: float = 1) -> Metric:
    """A gauge that says something in its labels; one series for each mapping, which all have the same names."""
    family = GaugeMetricFamily(name, text, labels=list(labels[0]))
    for one in labels:
        family.add_metric(list(one.values()), value)
    return family
