"""Options about metrics and health."""

from __future__ import annotations

import re
from typing import Any

from headway.server.config.buckets import bucket_problems
from headway.server.config.fields import Topic, option

# What Prometheus allows a name to begin with.
_PREFIX = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*", re.ASCII)
_DEFAULT_INTERVAL_S = 10.0


class ObservabilityConfig(Topic):
    """Metrics and health."""

    disable_log_stats: bool = option(False, "No statistics line and no engine metrics.")
    log_stats_interval: float = option(
        _DEFAULT_INTERVAL_S,
        "Seconds between two statistics lines; 0 or less means 10, as in vLLM.",
        environment=("VLLM_LOG_STATS_INTERVAL",),
    )
    metrics_prefix: str = option("vllm:", "What the names of vLLM's metrics begin with here, such as headway: in its place.")
    enable_old_metric_names: bool = option(
        False, "Export the metrics that vLLM has dropped since 0.11 too, under their old names: gpu_cache_usage_perc and others."
    )
    custom_histogram_buckets: dict[str, Any] = option(
        {}, 'Bounds of the buckets in place of vLLM\'s, by family: {"request_latency": [0.5, 1, 5]}.'
    )
    enable_server_load_tracking: bool = option(False, "Count the requests that are being answered, for /load; without it /load says 0.")
    engine_progress_timeout_s: float = option(
        60.0, "Seconds without a finished step, while work is open, after which /ping and /health answer 503.", gt=0
    )

    @property
    def stats_interval_s(self) -> float:
        return self.log_stats_interval if self.log_stats_interval > 0 else _DEFAULT_INTERVAL_S


def observability_problems(observability: ObservabilityConfig) -> list[str]:
    """A sentence for each thing that can't be served."""
    found = bucket_problems(observability.custom_histogram_buckets)
    if not _PREFIX.fullmatch(observability.metrics_prefix):
        found.append(
            "--metrics-prefix must hold letters, digits, _ and : only and not begin with a digit, so that Prometheus takes the names, "
            f"got {observability.metrics_prefix!r}"
        )
    return found
