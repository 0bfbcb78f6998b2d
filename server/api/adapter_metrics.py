"""vLLM's metric about adapters, which routers read to send requests to where an adapter is."""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from headway.server.api.adapters import AdapterRegistry
from headway.server.api.series import info_family


class AdapterCollector(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """The engines' state, as of their last step, when it is scraped."""

    def __init__(self, prefix: str, adapters: AdapterRegistry) -> None:
        self._name = f"{prefix}lora_requests_info"
        self._adapters = adapters

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        labels = {
            "max_lora": str(self._adapters.max_loras),
            "running_lora_adapters": ",".join(sorted(self._adapters.running())),
            "waiting_lora_adapters": ",".join(sorted(self._adapters.waiting())),
        }
        yield info_family(self._name, "Adapters of open requests; the value is the time of the scrape.", labels, value=time.time())
