"""Prometheus text as a scraper reads it."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from headway.container.conformance.exchange import describe
from headway.container.conformance.outcome import Failed

# How servers call the number of requests that are being computed.
_RUNNING = ("headway:num_requests_running", "vllm:num_requests_running", "sglang:num_running_reqs", "tgi_batch_current_size")


def series_of(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Each series with its value. Raises Failed where a scraper would give up."""
    try:
        return {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }
    except (ValueError, KeyError, IndexError) as error:
        raise Failed(f"/metrics is no Prometheus text: {describe(error)}") from error


def running_requests(text: str) -> float | None:
    """The sum over the gauge's series; None where there is no such gauge."""
    values = [value for (name, _), value in series_of(text).items() if name in _RUNNING]
    return sum(values) if values else None
