"""What the API processes have in common: the HTTP server, and manners towards the engine."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from fastapi import FastAPI

from headway.server.api.http_server import HttpServer
from headway.server.config.server import ServerConfig

if TYPE_CHECKING:
    from headway.server.api.tls.server_tls import ServerTls

# Where uvicorn tells of its own start and end.
_STAGES = frozenset({"server", "on"})


def http_server(app: FastAPI, config: ServerConfig, tls: ServerTls | None) -> HttpServer:
    if tls is not None:
        text = "When the server's certificate expires, in seconds since 1970."
        app.state.headway.metrics.add_gauge("tls_certificate_expiry_timestamp_seconds", text, tls.expires_at)
    return HttpServer(app, config, tls)


def hush_stages() -> None:
    """uvicorn's "Application startup complete." comes seconds or minutes before the server is ready, and would be taken for that."""
    logging.getLogger("uvicorn.error").addFilter(_is_no_stage)


def _is_no_stage(record: logging.LogRecord) -> bool:
    return record.module not in _STAGES or record.levelno > logging.INFO


def yield_to_engine() -> None:
    """Lowers this thread's priority, the event loop's, where the engine computes on the same cores.

    The engine's threads wait for each other many times a layer, so each moment taken from one is taken from all: 8 streams of the
    demo model on 2 cores went from 177 to 208 tokens/s (2026-11). The loop still runs whenever an engine thread sleeps.
    """
    os.nice(10)
