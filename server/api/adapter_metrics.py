"""vLLM's metric about adapters, which routers read to send requests to where an adapter is."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headway.server.api.adapters import AdapterRegistry


class AdapterCollector(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """The registry's state when it is scraped."""

    def __init__(self, adapters: AdapterRegistry) -> None:
        self._adapters = adapters

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        labels = {
            "max_lora": str(self._adapters.max_resident),
            "running_lora_adapters": ",".join(sorted(self._adapters.in_use())),
            "waiting_lora_adapters": "",
        }
        text = "Adapters of open requests, running or waiting; the value is the time of the scrape."
        family = GaugeMetricFamily("vllm:lora_requests_info", text, labels=list(labels))
        family.add_metric(list(labels.values()), time.time())
        yield family
