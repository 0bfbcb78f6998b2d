"""Options about metrics and health."""

from __future__ import annotations

from headway.server.config.fields import Topic, option


class ObservabilityConfig(Topic):
    """Metrics and health."""

    disable_log_stats: bool = option(False, "No statistics line and no engine metrics.")
    engine_progress_timeout_s: float = option(
        60.0, "Seconds without a finished step, while work is open, after which /ping and /health answer 503.", gt=0
    )
