"""Logging of every process: one format, one line each, no secrets. Set up by a process when it starts, never at import."""

from __future__ import annotations

import logging
import re
import sys
import threading
import types
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any, TextIO

from headway.server.say import indented_line, json_line, timestamp

_SHORTEST_SECRET = 4  # a shorter one would blacken ordinary words
# The access log is as loud as the HTTP server's options say, whatever the level of the rest.
ACCESS_LOG = "headway.access"
# What a record may carry as ``extra``: texts, and numbers.
_IDS = ("request_id", "inference_id", "session_id", "prefix_id", "adapter", "api_key", "finish_reason")
_FIGURES = ("status", "duration_s", "prompt_tokens", "cached_tokens", "completion_tokens")
_COLORS = {"DEBUG": "37", "INFO": "32", "WARNING": "33", "ERROR": "31", "CRITICAL": "1;31"}

# Of the request that the current task is about, where it is traced: its records carry them.
trace_ids: ContextVar[dict[str, str] | None] = ContextVar("trace_ids", default=None)

_URL_USER = re.compile(r"(://)[^/\s@\"']+@")  # names and passwords of mirrors, stores and proxies

log = logging.getLogger(__name__)


class _MaskingFormatter(logging.Formatter):
    """What both formats share. ``secrets`` are shown as ***."""

    def __init__(self, role: str, secrets: Sequence[str], prefix: str) -> None:
        super().__init__()
        self._role = role
        self._secrets = secrets
        self._prefix = prefix

    def _message(self, record: logging.LogRecord) -> str:
        return masked(record.getMessage(), self._secrets)

    def _traceback(self, record: logging.LogRecord) -> str:
        """The traceback and the stack that belong to the record, else empty."""
        parts = [self.formatException(record.exc_info)] if record.exc_info else []
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return masked("\n".join(parts), self._secrets)


class LineFormatter(_MaskingFormatter):
    """``2026-11-23T10:00:00.123Z INFO  api      message``, in UTC. Each line of a traceback carries the prefix too, since log
    collectors sort by line."""

    def __init__(self, role: str, secrets: Sequence[str] = (), prefix: str = "", is_colored: bool = False) -> None:
        super().__init__(role, secrets, prefix)
        self._is_colored = is_colored

    def format(self, record: logging.LogRecord) -> str:
        lines = [self._message(record), *self._traceback(record).splitlines()]
        level = f"{record.levelname:<7}"
        if self._is_colored:
            level = f"\x1b[{_COLORS.get(record.levelname, '0')}m{level}\x1b[0m"
        prefix = f"{self._prefix}{timestamp(record.created)} {level} {self._role:<8} "
        return "\n".join(prefix + (line if line.isprintable() else indented_line(line)) for line in lines)


class JsonFormatter(_MaskingFormatter):
    """One JSON object a record: time, level, role, message; what is known of the request that it is about; traceback."""

    def format(self, record: logging.LogRecord) -> str:
        more = {name: masked(str(getattr(record, name, "")), self._secrets) for name in _IDS} | {"traceback": self._traceback(record)}
        given: dict[str, object] = {name: text for name, text in (("prefix", self._prefix), *more.items()) if text}
        given |= trace_ids.get() or {}
        figures = {name: getattr(record, name) for name in _FIGURES if hasattr(record, name)}
        return json_line(record.created, record.levelname, self._role, self._message(record), **given, **figures)


def masked(text: str, secrets: Sequence[str]) -> str:
    """``text`` with *** for each secret, the longest first, and for what stands before the @ of a URL."""
    if "@" in text:
        text = _URL_USER.sub(r"\1***@", text)
    for secret in sorted((secret for secret in secrets if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def configure_logging(
    level: str,
    role: str = "server",
    secrets: Sequence[str] = (),
    stream: TextIO | None = None,
    *,
    as_json: bool = False,
    prefix: str = "",
    is_colored: bool = False,
) -> None:
    """Send all logs of this process to one stream: our own from ``level`` on, other libraries' from WARNING on. Safe to repeat.

    ``role`` names the process ("api", "engine"). uvicorn must be started with ``log_config=None`` to write through this.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(role, secrets, prefix) if as_json else LineFormatter(role, secrets, prefix, is_colored))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("headway").setLevel(level)
    logging.getLogger(ACCESS_LOG).setLevel(logging.INFO)
    logging.captureWarnings(True)


def guard_every_record(role: str, secrets: Sequence[str]) -> None:
    """For formats that are not ours: masks ``secrets`` where records are made, keeps a message on one line, and adds ``role``."""
    make = logging.getLogRecordFactory()

    def guarded(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        record.role = role
        _guard(record, secrets)
        return record

    logging.setLogRecordFactory(guarded)


def _guard(record: logging.LogRecord, secrets: Sequence[str]) -> None:
    try:
        text = record.getMessage()
    except Exception:  # arguments that do not fit: logging itself says so when it writes the record
        return
    shown = masked(text, secrets)
    shown = shown if shown.isprintable() else indented_line(shown)
    if shown != text:
        record.msg, record.args = shown, None
    if record.exc_info:
        trace = logging.Formatter().formatException(record.exc_info)
        if (shown := masked(trace, secrets)) != trace:
            record.exc_text, record.exc_info = shown, None


def log_uncaught_in_threads() -> None:
    """A thread that breaks is told in the log like everything else, not in raw lines beside it."""

    def tell(problem: threading.ExceptHookArgs) -> None:
        value = problem.exc_value or problem.exc_type()
        cause: tuple[type[BaseException], BaseException, types.TracebackType | None] = (problem.exc_type, value, problem.exc_traceback)
        log.error("The thread %s broke", problem.thread.name if problem.thread else "?", exc_info=cause)

    threading.excepthook = tell
