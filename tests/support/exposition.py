"""What /metrics says, taken apart."""

from __future__ import annotations

import asyncio
import re
from dataclasses import dataclass, field

from api_server import ApiServer
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from headway.server.api.gpu_metrics import SERIES, GpuMetrics

_TYPE = re.compile(r"^# TYPE (\S+) (\S+)$", re.MULTILINE)
_OF_HISTOGRAMS = re.compile("_(bucket|sum|count)$")


@dataclass
class Exported:
    """One metric: ``labels`` with the values of each, those of a histogram's buckets as ``bounds``."""

    kind: str
    labels: dict[str, set[str]] = field(default_factory=dict)
    bounds: tuple[float, ...] = ()


def exported(text: str) -> dict[str, Exported]:
    """By name, counters with _total as they are asked for; without the _created that go with them."""
    found = {name: Exported(kind) for name, kind in _TYPE.findall(text) if not name.endswith("_created")}
    assert len(found) == len([name for name, _ in _TYPE.findall(text) if not name.endswith("_created")]), "a name comes twice"
    for sample in (sample for family in text_string_to_metric_families(text) for sample in family.samples):
        metric = found.get(sample.name) or found.get(_OF_HISTOGRAMS.sub("", sample.name))
        if metric is None:
            continue
        for label, value in sample.labels.items():
            if label == "le":
                bound = float(value)
                metric.bounds += (bound,) if bound not in metric.bounds and bound != float("inf") else ()
            else:
                metric.labels.setdefault(label, set()).add(value)
    return found


def text_of_a_gpu() -> str:
    """What a server with a GPU exports beside the rest."""
    gpus, registry = GpuMetrics(lambda: {("0", "GPU-a"): dict.fromkeys(SERIES, 1.0)}), CollectorRegistry()
    registry.register(gpus)
    asyncio.run(gpus.refresh())
    text: bytes = generate_latest(registry)
    return text.decode()


def metrics_of(server: ApiServer) -> dict[str, float]:
    """Each sample by name and its labels but model_name and engine."""
    found = {}
    for family in text_string_to_metric_families(server.client.get("/metrics").text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("model_name", "engine")}
            found[sample.name + ("" if not labels else str(labels))] = sample.value
    return found
