"""How vLLM's metrics are named and labelled here: the one place that knows the prefix and the labels that all of them have."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from headway.server.config.buckets import Bounds

# The rank among data-parallel engines: there is one.
ENGINE = "0"


@dataclass(frozen=True, slots=True)
class Series:
    """Makes them. ``registry`` gets what this process counts; families are for collectors, which others count for."""

    registry: CollectorRegistry
    prefix: str
    model_name: str
    created: float = field(default_factory=time.time)

    def name(self, name: str) -> str:
        return f"{self.prefix}{name}"

    def counter(self, name: str, text: str) -> Counter:
        family = Counter(self.name(name), text, ["model_name", "engine"], registry=self.registry)
        return family.labels(self.model_name, ENGINE)

    def counters(self, name: str, text: str, label: str, values: tuple[str, ...]) -> dict[str, Counter]:
        """One for each value of a further label, there from the start."""
        family = Counter(self.name(name), text, ["model_name", "engine", label], registry=self.registry)
        return {value: family.labels(self.model_name, ENGINE, value) for value in values}

    def histogram(self, name: str, text: str, bounds: Bounds) -> Histogram:
        family = Histogram(self.name(name), text, ["model_name", "engine"], buckets=bounds, registry=self.registry)
        return family.labels(self.model_name, ENGINE)

    def gauge_family(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(self.name(name), text, labels=["model_name", "engine"])
        family.add_metric([self.model_name, ENGINE], value)
        return family

    def gauge_families(self, name: str, text: str, label: str, values: Mapping[str, float]) -> Metric:
        family = GaugeMetricFamily(self.name(name), text, labels=["model_name", "engine", label])
        for value, number in values.items():
            family.add_metric([self.model_name, ENGINE, value], number)
        return family

    def counter_family(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(self.name(name), text, labels=["model_name", "engine"])
        family.add_metric([self.model_name, ENGINE], value, created=self.created)
        return family


def info_family(name: str, text: str, labels: Mapping[str, str], value: float = 1) -> Metric:
    """A gauge that says something in its labels."""
    family = GaugeMetricFamily(name, text, labels=list(labels))
    family.add_metric(list(labels.values()), value)
    return family
