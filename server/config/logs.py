"""Options about logs."""

from __future__ import annotations

from typing import Literal

from headway.server.config.fields import Topic, option


class LogConfig(Topic):
    """Logs."""

    log_level: Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"] = option(
        "INFO", "Level of our own log.", environment=("VLLM_LOGGING_LEVEL",)
    )
    log_format: Literal["text", "json"] = option("text", "json writes each log line as an object with time, level, role and message.")
    uvicorn_log_level: Literal["critical", "error", "warning", "info", "debug", "trace"] = option(
        "info", "Level of the HTTP server's own log; above info there is no access log either."
    )
    disable_uvicorn_access_log: bool = option(False, "No access log.")

    @property
    def is_json(self) -> bool:
        return self.log_format == "json"
