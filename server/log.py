"""Logging of every process: one format, one line each, no secrets. Set up by a process when it starts, never at import."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Sequence
from typing import TextIO

_SHORTEST_SECRET = 4  # a shorter one would blacken ordinary words


class LineFormatter(logging.Formatter):
    """``2026-11-23T10:00:00.123Z INFO  api      message``, in UTC. Each line of a traceback carries the prefix too, since log
    collectors sort by line. ``secrets`` are shown as ***."""

    def __init__(self, role: str, secrets: Sequence[str] = ()) -> None:
        super().__init__()
        self._role = role
        self._secrets = sorted((secret for secret in secrets if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage().rstrip().replace("\r", "\\r").replace("\n", "\\n")
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        if record.stack_info:
            text += "\n" + self.formatStack(record.stack_info)
        for secret in self._secrets:
            text = text.replace(secret, "***")
        clock = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        prefix = f"{clock}.{int(record.msecs):03d}Z {record.levelname:<7} {self._role:<8} "
        return "\n".join(prefix + line for line in text.splitlines() or [""])


def configure_logging(level: str, role: str = "server", secrets: Sequence[str] = (), stream: TextIO | None = None) -> None:
    """Send all logs of this process to stderr: our own from ``level`` on, other libraries' from WARNING on. Safe to repeat.

    ``role`` names the process ("api", "engine"). uvicorn must be started with ``log_config=None`` to write through this.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(LineFormatter(role, secrets))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("headway").setLevel(level)
    logging.captureWarnings(True)
