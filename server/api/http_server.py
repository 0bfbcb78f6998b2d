"""How uvicorn serves the application."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

import uvicorn
from starlette.types import ASGIApp
from uvicorn.config import STARTUP_FAILURE

from headway.server.api.connection_limit import ConnectionLimit
from headway.server.api.http_protocol import LimitedHttpToolsProtocol
from headway.server.api.websocket_protocol import LimitedWebSocketProtocol
from headway.server.config.connections import ConnectionsConfig

if TYPE_CHECKING:
    from fastapi import FastAPI

    from headway.server.api.tls.server_tls import ServerTls  # cryptography, which a server without TLS has no use for
    from headway.server.config.server import ServerConfig

# Answers that are complete still have to reach their sockets.
_FLUSH_S = 2
# SageMaker pings a WebSocket every 60 s and gives up after five: ours only clear away clients that have vanished without a word.
_PING_INTERVAL_S, _PING_TIMEOUT_S = 300.0, 60.0


class LimitedServer(uvicorn.Server):
    """uvicorn on the caller's event loop, with its logging and without signal handlers: those are the caller's too."""

    def __init__(
        self,
        app: ASGIApp,
        connections: ConnectionsConfig,
        *,
        max_websocket_bytes: int,
        log_level: str = "info",
        root_path: str = "",
        lifespan: Literal["auto", "off"] = "auto",
        tls: ServerTls | None = None,
    ) -> None:
        super().__init__(_uvicorn_config(app, connections, max_websocket_bytes, log_level, root_path, lifespan))
        self._connections = connections
        self._limit = ConnectionLimit(connections)
        self._tls = tls
        self._refreshing: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """In the place of uvicorn's, which can't limit the time of a TLS handshake."""
        await self.lifespan.startup()
        if self.lifespan.should_exit:
            sys.exit(STARTUP_FAILURE)
        loop = asyncio.get_running_loop()
        secured: dict[str, Any] = {}
        if self._tls is not None:
            secured = {"ssl": self._tls.context, "ssl_handshake_timeout": self._connections.client_header_timeout_s}
            if self._tls.is_refreshed:
                self._refreshing = asyncio.create_task(self._tls.keep_fresh())
        self.servers = []
        for listener in sockets or []:
            create = loop.create_unix_server if listener.family == socket.AF_UNIX else loop.create_server
            self.servers.append(await create(self._new_protocol, sock=listener, backlog=self.config.backlog, **secured))
        self.started = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self._refreshing is not None:
            self._refreshing.cancel()
        await super().shutdown(sockets)

    def _new_protocol(self) -> LimitedHttpToolsProtocol:
        return LimitedHttpToolsProtocol(self.config, self.server_state, self.lifespan.state, limits=self._connections, limit=self._limit)


class HttpServer(LimitedServer):
    """The server's own."""

    def __init__(self, app: FastAPI, config: ServerConfig, tls: ServerTls | None = None) -> None:
        super().__init__(
            app,
            config.connections,
            max_websocket_bytes=config.overload.max_request_body_bytes,
            log_level=config.logs.uvicorn_log_level,
            root_path=config.network.root_path,
            tls=tls,
        )
        if tls is not None:
            text = "When the server's certificate expires, in seconds since 1970."
            app.state.headway.metrics.add_gauge("tls_certificate_expiry_timestamp_seconds", text, tls.expires_at)


def _uvicorn_config(
    app: ASGIApp, connections: ConnectionsConfig, max_websocket_bytes: int, log_level: str, root_path: str, lifespan: Literal["auto", "off"]
) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=LimitedHttpToolsProtocol,
        loop="none",
        log_config=None,
        log_level=log_level,
        access_log=False,  # access_log.py has it
        root_path=root_path,
        lifespan=lifespan,
        server_header=False,
        timeout_keep_alive=connections.http_keep_alive_s,
        timeout_graceful_shutdown=_FLUSH_S,
        backlog=2048,
        ws=LimitedWebSocketProtocol,
        ws_max_size=max_websocket_bytes,
        ws_ping_interval=_PING_INTERVAL_S,
        ws_ping_timeout=_PING_TIMEOUT_S,
        ws_per_message_deflate=False,  # costs the event loop more than a chunk of 200 bytes saves
    )


def close_after_answers(server: uvicorn.Server) -> None:
    """Each connection on which an answer is under way is closed behind it; what is idle may still be told to go elsewhere."""
    for connection in server.server_state.connections:
        if isinstance(connection, LimitedHttpToolsProtocol):
            connection.close_after_answer()
