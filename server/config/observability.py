"""Options about logs and metrics."""

from __future__ import annotations

from typing import Literal

from headway.server.config.fields import Topic, option


class ObservabilityConfig(Topic):
    """Logs and metrics."""

    log_level: Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"] = option(
        "INFO", "Level of our own log.", environment=("VLLM_LOGGING_LEVEL",)
    )
    log_format: Literal["text", "json"] = option("text", "json writes each log line as an object with time, level, role and message.")
    disable_log_stats: bool = option(False, "No statistics line and no engine metrics.")
    engine_progress_timeout_s: float = option(
        60.0, "Seconds without a finished step, while work is open, after which /ping and /health answer 503.", gt=0
    )

    @property
    def is_log_json(self) -> bool:
        return self.log_format == "json"
