"""What a server says of its load in the header endpoint-load-metrics (ORCA), which server/api/orca.py writes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

FORMAT_HEADER = "endpoint-load-metrics-format"
LOAD_HEADER = "endpoint-load-metrics"
_LONGEST = 4096
_WAITING = "num_requests_waiting"
# Ours and vLLM's, and what ORCA itself calls it.
_USAGES = ("kv_cache_usage_perc", "kv_cache_utilization")


@dataclass(frozen=True, slots=True)
class LoadReport:
    """``num_waiting``: requests that no step has room for; ``kv_usage``: 0 to 1; ``at``: when it came, by time.monotonic()."""

    num_waiting: float
    kv_usage: float
    at: float


def read_report(header: str, at: float) -> LoadReport | None:
    """TEXT or JSON; None for what is neither, or tells nothing that counts here."""
    if len(header) > _LONGEST:
        return None
    form, _, text = header.strip().partition(" ")
    named = _of_json(text) if form.upper() == "JSON" else _of_text(text) if form.upper() == "TEXT" else {}
    usage = next((named[name] for name in _USAGES if name in named), None)
    if usage is None and _WAITING not in named:
        return None
    return LoadReport(named.get(_WAITING, 0.0), min(usage or 0.0, 1.0), at)


def _of_json(text: str) -> dict[str, float]:
    try:
        metrics = json.loads(text)["named_metrics"]
        return _good({str(name): float(value) for name, value in metrics.items()})
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return {}


def _of_text(text: str) -> dict[str, float]:
    found = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        try:
            found[name.removeprefix("named_metrics.")] = float(value)
        except ValueError:
            continue
    return _good(found)


def _good(named: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in named.items() if math.isfinite(value) and value >= 0}
