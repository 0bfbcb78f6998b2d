"""How uvicorn serves the application: one port, and an end that leaves time to stop what was started."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from headway.container.local.app import App
from headway.container.local.runtime.call import DroppableHttp
from headway.server.errors import ConfigError

_BACKLOG = 2048
_FLUSH_S = 5


def bind(host: str, port: int) -> socket.socket:
    """Raises ConfigError."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Named TCP, so that asyncio turns Nagle's algorithm off.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as problem:
        raise ConfigError([f"--host {host}: is neither an address nor a name that can be resolved here ({problem.strerror})"]) from problem
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
    except OSError as problem:
        listener.close()
        raise ConfigError([f"--port {port}: cannot listen on {host}:{port}: {problem.strerror}; choose another --port"]) from problem
    return listener


class LocalServer(uvicorn.Server):
    """Ends when it is told to, by ``end``; what the caller started is the caller's to stop then. Signals are the caller's too."""

    def __init__(self, app: App) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=DroppableHttp,
                ws="none",
                lifespan="off",
                loop="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_FLUSH_S,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def end(self) -> None:
        self.should_exit = True

    def hurry(self) -> None:
        """Requests that are open are not waited for."""
        self.force_exit = True
