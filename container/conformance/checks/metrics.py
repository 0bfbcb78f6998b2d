"""What the platform's collector reads."""

from __future__ import annotations

import secrets

from headway.container.conformance.check import Clause, Severity, check
from headway.container.conformance.exposition import series_of
from headway.container.conformance.outcome import NotApplicable, require
from headway.container.conformance.probe import Probe

_PAGE = "monitoring-detailed-observability-getting-started"
_NUM_PATHS = 30
# A label for "any other path", with the buckets of a histogram.
_MOST_NEW_SERIES = 25


@check(
    "metrics.open",
    "GET /metrics on the same port is 200 without a key",
    Clause(_PAGE, "A collector reads /metrics on port 8080, by default for configurations made after 2026-06-17, and sends no key."),
)
def is_open(probe: Probe) -> None:
    status = probe.ask("GET", "/metrics", with_key=False).status
    require(status == 200, f"GET /metrics without a key is answered {status}")


@check("metrics.text", "/metrics is Prometheus text", Clause(_PAGE, "The collector reads Prometheus' exposition format."))
def text(probe: Probe) -> None:
    num_series = len(series_of(probe.ask("GET", "/metrics").text))
    probe.note(f"{num_series} series")
    require(num_series, "/metrics has no series")


@check(
    "metrics.bounded",
    "Requests of unknown paths add no series",
    Clause(_PAGE, "Series are paid for and kept by label values; whoever calls must not be able to make more."),
    Severity.SHOULD,
)
def bounded(probe: Probe) -> None:
    def ask_unknown_paths() -> None:
        for _ in range(_NUM_PATHS):
            probe.subject.ask("GET", f"/{secrets.token_hex(6)}", b"", {})

    before = len(series_of(probe.ask("GET", "/metrics").text))
    if not before:
        raise NotApplicable("/metrics has no series")
    ask_unknown_paths()
    num_new = len(series_of(probe.ask("GET", "/metrics").text)) - before
    probe.note(f"{_NUM_PATHS} random paths: {num_new} new series beside {before}")
    require(num_new <= _MOST_NEW_SERIES, f"{_NUM_PATHS} random paths added {num_new} series")
