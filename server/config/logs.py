"""Options about logs."""

from __future__ import annotations

from typing import Literal

from headway.server.config.fields import Topic, option

_NUMBERS = (("0", "DEBUG"), ("10", "DEBUG"), ("20", "INFO"), ("30", "WARNING"), ("40", "ERROR"), ("50", "CRITICAL"))
_LEVELS = (*_NUMBERS, ("notset", "DEBUG"), ("warn", "WARNING"), ("fatal", "CRITICAL"))
PROBES = ("/ping", "/health", "/metrics", "/load")


class LogConfig(Topic):
    """Logs."""

    log_level: Literal["CRITICAL", "ERROR", "WARNING", "INFO", "DEBUG"] = option(
        "INFO", "Level of our own log, but for the access log. Python's numbers too.", environment=("VLLM_LOGGING_LEVEL",), synonyms=_LEVELS
    )
    log_format: Literal["text", "json"] = option("text", "json writes each log line as an object with time, level, role and message.")
    log_stream: Literal["stderr", "stdout"] = option(
        "stderr",
        "Where the log goes; banner, warnings and the last line stay on stderr.",
        environment=("VLLM_LOGGING_STREAM",),
        synonyms=(("ext://sys.stdout", "stdout"), ("ext://sys.stderr", "stderr")),
    )
    log_prefix: str = option("", "A text before each line; in JSON a field of its own.", environment=("VLLM_LOGGING_PREFIX",))
    log_color: Literal["auto", "always", "never"] = option(
        "auto",
        "Colours of levels in the text log; auto: on a terminal. NO_COLOR and FORCE_COLOR count where this is not given.",
        environment=("VLLM_LOGGING_COLOR",),
        synonyms=(("1", "always"), ("true", "always"), ("0", "never"), ("false", "never")),
    )
    log_config: str | None = option(
        None,
        "A file for Python's logging.config.dictConfig, JSON or YAML, in place of the format above. Secrets stay masked.",
        aliases=("log-config-file",),
        environment=("VLLM_LOGGING_CONFIG_PATH",),
        location=True,
    )
    configure_logging: bool = option(
        True, "Set Python's logging up; with --no-configure-logging it stays as it is.", environment=("VLLM_CONFIGURE_LOGGING",)
    )
    enable_log_requests: bool = option(
        False, "A line for each generation request: id, model, sampling, token counts. With --log-level DEBUG the prompt, too."
    )
    enable_log_outputs: bool = option(False, "What was generated, with --enable-log-requests.")
    max_log_len: int | None = option(None, "Most characters of a prompt or an output in the log. Default: no limit.", ge=0)
    log_error_stack: bool = option(False, "The stack of each error that a request is answered with.")
    uvicorn_log_level: Literal["critical", "error", "warning", "info", "debug", "trace"] = option(
        "info", "Level of the HTTP server's own log; above info there is no access log either."
    )
    disable_uvicorn_access_log: bool = option(False, "No access log.")
    disable_access_log_for_endpoints: list[str] = option(list(PROBES), "Paths that the access log leaves out.")

    @property
    def is_json(self) -> bool:
        return self.log_format == "json"


def log_problems(logs: LogConfig) -> list[str]:
    found = []
    if not logs.log_prefix.isprintable():
        found.append("--log-prefix holds a line break or another control character; each event is one line")
    if logs.log_config is not None and not logs.configure_logging:
        found.append("--log-config can't be used with --no-configure-logging, which leaves logging as it is: leave one of them out")
    if logs.enable_log_outputs and not logs.enable_log_requests:
        found.append("--enable-log-outputs needs --enable-log-requests: add it")
    found += [
        f"--disable-access-log-for-endpoints must hold paths such as /health, got {path!r}"
        for path in logs.disable_access_log_for_endpoints
        if not path.startswith("/")
    ]
    return found


def log_warnings(logs: LogConfig) -> list[str]:
    if logs.log_config is not None:
        other = "--log-config"
    elif not logs.configure_logging:
        other = "--no-configure-logging"
    else:
        return ["--log-color is not used: JSON has no colours"] if logs.is_json and logs.log_color == "always" else []
    asked = {
        "--log-stream": logs.log_stream != "stderr",
        "--log-prefix": bool(logs.log_prefix),
        "--log-color": logs.log_color == "always",
    }
    return [f"{flag} is not used with {other}" for flag, is_asked in asked.items() if is_asked]
