"""How uvicorn serves the application."""

from __future__ import annotations

import uvicorn
from fastapi import FastAPI

from headway.server.api.http_protocol import LimitedHttpToolsProtocol
from headway.server.api.websocket_protocol import LimitedWebSocketProtocol
from headway.server.config.server import ServerConfig

# Answers that are complete still have to reach their sockets.
_FLUSH_S = 2
# SageMaker pings a WebSocket every 60 s and gives up after five: ours only clear away clients that have vanished without a word.
_PING_INTERVAL_S, _PING_TIMEOUT_S = 300.0, 60.0


def uvicorn_config(app: FastAPI, config: ServerConfig) -> uvicorn.Config:
    """For a server that runs on the caller's event loop and with its logging."""
    return uvicorn.Config(
        app,
        http=LimitedHttpToolsProtocol,
        loop="none",
        log_config=None,
        log_level=config.logs.uvicorn_log_level,
        access_log=False,  # access_log.py has it
        root_path=config.network.root_path,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=_FLUSH_S,
        backlog=2048,
        ws=LimitedWebSocketProtocol,
        ws_max_size=config.overload.max_request_body_bytes,
        ws_ping_interval=_PING_INTERVAL_S,
        ws_ping_timeout=_PING_TIMEOUT_S,
        ws_per_message_deflate=False,  # costs the event loop more than a chunk of 200 bytes saves
    )


def close_after_answers(server: uvicorn.Server) -> None:
    """Each connection on which an answer is under way is closed behind it; what is idle may still be told to go elsewhere."""
    for connection in server.server_state.connections:
        if isinstance(connection, LimitedHttpToolsProtocol):
            connection.close_after_answer()
