"""Metrics of experts that move between ranks, where they do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from headway.server.api.series import Series
from headway.server.engine.client import EngineClient
from headway.server.stats import BalancingStats


class ExpertCollector(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """What the engines last told."""

    def __init__(self, engine: EngineClient, series: Series) -> None:
        self._engine = engine
        self._series = replace(series, prefix="headway:")  # vLLM has none of them

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        series = self._series
        told = [engine.stats.balancing or BalancingStats() for engine in self._engine.engines]
        text = "Tokens of an average rank over those of the busiest one, as experts are placed now."
        yield series.gauge_family("expert_balance_ratio", text, (one.balance for one in told))
        yield series.counter_family(
            "expert_placements", "Times that a layer's experts were placed anew.", (one.num_placed_layers for one in told)
        )
        yield series.counter_family("experts_moved", "Experts that went to another rank.", (one.num_moved_experts for one in told))
