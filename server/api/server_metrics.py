"""Metrics of our own about the server as a whole: what operators look for first, and vLLM does not tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from headway import __version__
from headway.server.api.deps import AppState
from headway.server.api.health import health_of
from headway.server.api.series import info_family


class ServerCollector(Collector):  # type: ignore[misc]  # prometheus_client is untyped here
    """The server's state when it is scraped. ``phases``: those of its start that have ended by then, with the seconds that each took."""

    def __init__(self, state: AppState, phases: Mapping[str, float]) -> None:
        self._state = state
        self._phases = phases

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        engine = self._state.engine
        yield GaugeMetricFamily("headway:ready", "1 while new requests are served.", float(health_of(self._state).status == "ok"))
        yield info_family("headway:build_info", "The server's version.", {"version": __version__})
        stalled = "Seconds since the engine's last step, 0 while it has no work."
        yield GaugeMetricFamily("headway:engine_stalled_seconds", stalled, engine.seconds_since_progress())
        yield CounterMetricFamily("headway:engine_steps", "Steps that the engine has finished.", engine.stats.num_steps)
        phases = GaugeMetricFamily("headway:startup_phase_seconds", "How long each phase of the start took.", labels=["phase"])
        for name, seconds in list(self._phases.items()):  # the starter's thread may be adding one
            phases.add_metric([name], seconds)
        yield phases
