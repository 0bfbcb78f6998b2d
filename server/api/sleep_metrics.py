"""How long the engine takes to fall asleep and to wake."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from prometheus_client import Gauge, Histogram

from headway.server.api.series import Series

_BUCKETS = (0.01, 0.1, 1, 10, 30, 60, 120, 300, 600)


class SleepMetrics:
    """Counts operations that failed, too."""

    def __init__(self, series: Series) -> None:
        self._duration = Histogram(
            series.name("sleep_mode_operation_duration_seconds"),
            "Time of a /sleep or /wake_up.",
            ["operation"],
            buckets=_BUCKETS,
            registry=series.registry,
        )
        self._in_flight = Gauge(
            series.name("sleep_mode_operations_in_flight"),
            "Calls of /sleep and /wake_up under way.",
            registry=series.registry,
            multiprocess_mode="livesum",
        )

    @contextmanager
    def timed(self, operation: Literal["sleep", "wake_up"]) -> Iterator[None]:
        started = time.perf_counter()
        self._in_flight.inc()
        try:
            yield
        finally:
            self._in_flight.dec()
            self._duration.labels(operation).observe(time.perf_counter() - started)
