"""The composition root of `headway serve`: binds, starts the engine process, runs the life cycle of both, says how it ended."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from headway.server.api_processes.followers import Followers
from headway.server.config.server import ServerConfig, secrets_of
from headway.server.counts import Counts
from headway.server.errors import ConfigError, HeadwayError, sentence_of
from headway.server.log import configure_logging, log_uncaught_in_threads, masked
from headway.server.phases import PhaseLog
from headway.server.private_directory import make_private_directory
from headway.server.say import say
from headway.server.signals import EarlyStop, Stopped, ignore_further_signals
from headway.server.source.cache import cache_directory
from headway.server.starter import EngineStarter

if TYPE_CHECKING:
    from headway.server.api.sagemaker.custom.loading import CustomHandlers

log = logging.getLogger(__name__)

_MAX_SOCKETS = 65536


def run_server(config: ServerConfig, early: EarlyStop) -> NoReturn:
    """Serves until told to stop, then ends the process: 0 stopped by a signal, 2 a wrong option or model, 1 anything else.

    The last line on stderr names the reason of a status that is not 0. ``early`` has the signals until the event loop takes them.
    """
    logs = config.logs
    secrets = secrets_of(config)
    configure_logging(logs.log_level, role="api", secrets=secrets, as_json=logs.is_json)
    log_uncaught_in_threads()
    status, last_words = 0, None
    try:
        status, last_words = _serve(config, early)
    except HeadwayError as problem:
        status, last_words = 2, str(problem)
    except Stopped:
        ignore_further_signals()
    except Exception as problem:  # the process edge
        log.exception("The server broke")
        status, last_words = 1, sentence_of(problem)
    for line in (last_words or "").splitlines():
        say("error", masked(line, secrets), logs.is_json)
    logging.shutdown()
    # Without the interpreter's own end, which would wait for the threads of a download: minutes, for a whole model.
    os._exit(status)


def _serve(config: ServerConfig, early: EarlyStop) -> tuple[int, str | None]:
    """(exit status, last words)."""
    started = time.monotonic()
    allow_many_sockets()
    listener = bind(config.network.host, config.network.port)
    # Before anything that takes long: code of the user's that fails to load ends the start.
    custom = _custom_handlers(config)
    directory = make_private_directory()
    counts = _shared_counts(directory, config.network.api_server_count)
    cache_dir = cache_directory(os.environ)
    # The engine takes longest (torch, weights): it starts while this process imports what HTTP needs.
    starter = EngineStarter(config, directory, cache_dir, PhaseLog("getting the model", started))
    followers = Followers(config, directory, cache_dir, [listener], counts)
    try:
        starter.begin()
        followers.begin()
        from headway.server.lifecycle import Lifecycle  # fastapi, uvicorn

        return Lifecycle(config, starter, followers, counts, listener, early, started, custom).run()
    finally:
        ignore_further_signals()
        starter.stop()
        followers.kill(patience_s=0)
        shutil.rmtree(directory, ignore_errors=True)


def _shared_counts(directory: Path, num_processes: int) -> Counts:
    """Of this process, and of the API processes beside it if there are any; their metrics are then files that add up."""
    if num_processes == 1:
        return Counts.alone()
    metrics = directory / "metrics"
    metrics.mkdir()
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)  # read when prometheus_client is imported, here and in those processes
    return Counts.create(directory, num_processes)


def _custom_handlers(config: ServerConfig) -> CustomHandlers | None:
    if not config.sagemaker.enable_custom_handlers:
        return None
    from headway.server.api.sagemaker.custom.loading import load_custom_handlers  # fastapi

    return load_custom_handlers(config.sagemaker)


def allow_many_sockets() -> None:
    """Raises this process's limit on open files as far as it may: with the usual 1024, as many idle connections would shut out /ping."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MAX_SOCKETS if hard == resource.RLIM_INFINITY else min(hard, _MAX_SOCKETS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


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
