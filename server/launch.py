"""The composition root of `headway serve`: binds, starts the engine process, then runs the life cycle of both processes."""

from __future__ import annotations

import logging
import os
import signal
import socket
import time

from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError
from headway.server.log import configure_logging
from headway.server.source.cache import cache_root
from headway.server.starter import EngineStarter


class _ToldToStop(SystemExit):
    """A signal came before the event loop took signals over."""


def run_server(config: ServerConfig) -> int:
    """Serves until told to stop. Exit status: 0 stopped by a signal, 2 a wrong option or model, 1 the engine died."""
    started = time.perf_counter()
    # Until the event loop takes over: as PID 1 a signal without a handler would be lost.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _stop_before_serving)
    secrets = [*config.http.api_key, *([config.model.hf_token] if config.model.hf_token else [])]
    configure_logging(config.observability.log_level, role="api", secrets=secrets)
    listener = bind(config.http.host, config.http.port)
    # The engine takes longest (torch, weights): it starts while this process imports what HTTP needs.
    starter = EngineStarter(config, cache_root(os.environ))
    try:
        starter.begin()
        from headway.server.lifecycle import run  # fastapi, uvicorn

        return run(config, starter, listener, started)
    except _ToldToStop:
        # A download may be under way in threads that the interpreter would wait for.
        starter.process.kill(patience_s=0)
        logging.shutdown()
        os._exit(0)
    finally:
        starter.process.kill(patience_s=0)


def _stop_before_serving(number: int, frame: object) -> None:
    raise _ToldToStop(0)


def bind(host: str | None, port: int) -> socket.socket:
    """A bound socket; a taken or forbidden port is a ConfigError that says who holds it, where the system tells."""
    family = socket.AF_INET6 if host is not None and ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host or "0.0.0.0", port))
        listener.listen(2048)  # from now on a client waits instead of being refused
    except OSError as problem:
        listener.close()
        where = f"{host or '0.0.0.0'}:{port}"
        raise ConfigError([f"--port {port}: cannot listen on {where}: {problem.strerror}{_holder(port)}"]) from problem
    return listener


def _holder(port: int) -> str:
    import psutil

    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port and connection.pid:
                return f", held by {psutil.Process(connection.pid).name()} (pid {connection.pid}); stop it or choose another --port"
    except psutil.Error:
        pass
    return "; choose another --port"
