"""Logging of every process: one format, one line each, no secrets. Set up by a process when it starts, never at import."""

from __future__ import annotations

import logging
import re
import sys
import threading
import types
from collections.abc import Sequence
from contextvars import ContextVar
from typing import TextIO

from headway.server.say import indented_line, json_line, timestamp

_SHORTEST_SECRET = 4  # a shorter one would blacken ordinary words
# What a record may carry as ``extra``.
_IDS = ("request_id", "inference_id", "session_id", "prefix_id", "adapter")

# Of the request that the current task is about, where it is traced: its records carry them.
trace_ids: ContextVar[dict[str, str] | None] = ContextVar("trace_ids", default=None)

_URL_USER = re.compile(r"(://)[^/\s@\"']+@")  # names and passwords of mirrors, stores and proxies

log = logging.getLogger(__name__)


class _MaskingFormatter(logging.Formatter):
    """What both formats share. ``secrets`` are shown as ***."""

    def __init__(self, role: str, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._role = role
        self._secrets = secrets

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

    def format(self, record: logging.LogRecord) -> str:
        lines = [self._message(record), *self._traceback(record).splitlines()]
        prefix = f"{timestamp(record.created)} {record.levelname:<7} {self._role:<8} "
        return "\n".join(prefix + (line if line.isprintable() else indented_line(line)) for line in lines)


class JsonFormatter(_MaskingFormatter):
    """One JSON object a record: time, level, role, message; the ids of the request that it is about; traceback."""

    def format(self, record: logging.LogRecord) -> str:
        more = {name: masked(str(getattr(record, name, "")), self._secrets) for name in _IDS} | {"traceback": self._traceback(record)}
        given = {name: text for name, text in more.items() if text} | (trace_ids.get() or {})
        return json_line(record.created, record.levelname, self._role, self._message(record), **given)


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
    as_json: bool = False,
) -> None:
    """Send all logs of this process to stderr: our own from ``level`` on, other libraries' from WARNING on. Safe to repeat.

    ``role`` names the process ("api", "engine"). uvicorn must be started with ``log_config=None`` to write through this.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter(role, secrets) if as_json else LineFormatter(role, secrets))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("headway").setLevel(level)
    logging.captureWarnings(True)


def log_uncaught_in_threads() -> None:
    """A thread that breaks is told in the log like everything else, not in raw lines beside it."""

    def tell(problem: threading.ExceptHookArgs) -> None:
        value = problem.exc_value or problem.exc_type()
        cause: tuple[type[BaseException], BaseException, types.TracebackType | None] = (problem.exc_type, value, problem.exc_traceback)
        log.error("The thread %s broke", problem.thread.name if problem.thread else "?", exc_info=cause)

    threading.excepthook = tell
