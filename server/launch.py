"""The composition root of `headway serve`: binds, starts the engine process, then runs the life cycle of both processes."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from headway.server.config.server import ServerConfig
from headway.server.errors import ConfigError
from headway.server.log import configure_logging

if TYPE_CHECKING:
    from headway.server.engine.process_client import EngineProcess
    from headway.server.source.files import ModelFiles

log = logging.getLogger(__name__)


def run_server(config: ServerConfig) -> int:
    """Serves until told to stop. Exit status: 0 stopped by a signal, 2 a wrong option or model, 1 the engine died."""
    started = time.perf_counter()
    secrets = [*config.http.api_key, *([config.model.hf_token] if config.model.hf_token else [])]
    configure_logging(config.observability.log_level, role="api", secrets=secrets)
    listener = bind(config.http.host, config.http.port)
    # The engine takes longest (torch, weights): it starts while this process imports what HTTP needs.
    starter = EngineStarter(config)
    starter.begin()
    from headway.server.lifecycle import run  # fastapi, uvicorn

    try:
        return run(config, starter, listener, started)
    finally:
        starter.process.kill(patience_s=0)


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


def cache_directory() -> Path:
    """Where fetched and converted files are kept: HEADWAY_CACHE, else the user's cache directory."""
    import platformdirs

    return Path(os.environ.get("HEADWAY_CACHE") or platformdirs.user_cache_dir("headway"))


class EngineStarter:
    """Finds the model's files, fetching them if need be, then starts the engine process; all in a thread of its own.

    ``files`` is done once the files are local and the engine process runs; it carries the exception if that failed.
    """

    def __init__(self, config: ServerConfig) -> None:
        from headway.server.engine.process_client import EngineProcess

        self.process: EngineProcess = EngineProcess()
        self.files: Future[ModelFiles] = Future()
        self.phase = "looking for the model"
        self._config = config

    def begin(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="engine-starter").start()

    def _run(self) -> None:
        from headway.server.source.resolve import resolve_model

        model = self._config.model
        try:
            assert model.model is not None, "checked with the options"
            files = resolve_model(
                model.model,
                revision=model.revision,
                token=model.hf_token,
                download_dir=model.download_dir,
                load_format=model.load_format,
                cache_dir=cache_directory(),
                on_progress=self._progress,
            )
            self.process.start(self._config, files)
        except BaseException as problem:  # the thread's edge: whoever waits for the files gets it
            self.files.set_exception(problem)
        else:
            self.files.set_result(files)

    def _progress(self, text: str) -> None:
        self.phase = text
        log.info("%s", text)
