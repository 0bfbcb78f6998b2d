"""The life of a server: listen at once, get ready, serve, drain, stop in order, exit with the truth."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator

import uvicorn
import uvloop

from headway.server.api.adapters import AdapterRegistry
from headway.server.api.app import create_app
from headway.server.api.deps import Drain, Served
from headway.server.api.http_protocol import LimitedHttpToolsProtocol
from headway.server.banner import ready_banner
from headway.server.config.server import ServerConfig
from headway.server.engine.process_client import ProcessEngineClient
from headway.server.errors import HeadwayError
from headway.server.source.files import ModelFiles
from headway.server.starter import EngineStarter

log = logging.getLogger(__name__)

# A dead server answers 503 with its reason for this long, so that health checks see it; then it exits.
DEAD_LINGER_S = 5.0
# Answers that are complete still have to reach their sockets.
_FLUSH_S = 3
_PROBES = frozenset({"/ping", "/health", "/metrics", "/load"})


def run(config: ServerConfig, starter: EngineStarter, listener: socket.socket, started: float) -> int:
    """Runs the API process to its end and returns the exit status. ``started`` is perf_counter() at process start."""
    return uvloop.run(_Lifecycle(config, starter, listener, started).run())


def _is_no_probe(record: logging.LogRecord) -> bool:
    """Probes and scrapes, several a second, would bury the requests in the access log."""
    arguments = record.args
    path = str(arguments[2]) if isinstance(arguments, tuple) and len(arguments) > 2 else ""
    return path.partition("?")[0] not in _PROBES


def _yield_to_engine() -> None:
    """Lowers this thread's priority, the event loop's, where the engine computes on the same cores.

    The engine's threads wait for each other many times a layer, so each moment taken from one is taken from all: 8 streams of the
    demo model on 2 cores went from 177 to 208 tokens/s (2026-11). The loop still runs whenever an engine thread sleeps.
    """
    os.nice(10)


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers: the life cycle has them."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Lifecycle:
    def __init__(self, config: ServerConfig, starter: EngineStarter, listener: socket.socket, started: float) -> None:
        self._config = config
        self._starter = starter
        self._listener = listener
        self._started = started
        self._client = ProcessEngineClient(starter.process, max_open_requests=config.scheduler.max_num_queued_reqs)
        self._drain = Drain()
        self._served = Served.of(config)
        self._adapters = AdapterRegistry(config.lora, self._client, self._served.names)
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        server = _Uvicorn(self._uvicorn_config())
        serving = asyncio.create_task(server.serve(sockets=[self._listener]))
        starting = asyncio.create_task(self._get_ready())
        asked_to_stop = asyncio.create_task(self._signals.get())
        died = asyncio.create_task(self._client.ended.wait())
        await asyncio.wait({serving, starting, asked_to_stop, died}, return_when=asyncio.FIRST_COMPLETED)
        status, last_words = await self._end(starting, asked_to_stop)
        await self._client.stop()
        server.should_exit = True
        await serving
        for task in (starting, died, asked_to_stop):
            task.cancel()
        if last_words:
            print(f"headway: error: {last_words}", file=sys.stderr, flush=True)  # noqa: T201
        if not self._starter.files.done() or self._served.model is None:
            # A download may be under way in threads that the interpreter would wait for: minutes, for a whole model.
            self._starter.process.kill(patience_s=0)
            logging.shutdown()
            os._exit(status)
        return status

    async def _end(self, starting: asyncio.Task[None], asked_to_stop: asyncio.Task[signal.Signals]) -> tuple[int, str | None]:
        """What ended the serving, dealt with: (exit status, the last line)."""
        if asked_to_stop.done():
            log.info("%s: refusing new work, %d requests open", asked_to_stop.result().name, self._client.num_open_requests)
            await self._finish_open_requests()
            if (cause := self._client.dead_cause) is not None:
                return 1, f"the engine has stopped: {cause}"
            return 0, None
        if starting.done() and (problem := starting.exception()) is not None:
            self._client.die(str(problem))
            if not isinstance(problem, HeadwayError):
                log.error("The start failed", exc_info=problem)
            return (2 if isinstance(problem, HeadwayError) else 1), str(problem)
        cause = self._client.dead_cause or "the HTTP server ended by itself"
        if self._client.died_of_user_error:
            return 2, cause
        log.error("The engine has stopped: %s", cause)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asked_to_stop), DEAD_LINGER_S)
        return 1, f"the engine has stopped: {cause}"

    async def _get_ready(self) -> None:
        """From the model's files to ready, then receives from the engine until it ends. Raises what kept it from starting."""
        files = await self._wait_for_files()
        receiving = asyncio.create_task(self._client.run())
        try:
            await self._served.load(self._config, files, self._starter.cache_dir)
            await self._client.became_ready.wait()
            info = self._client.info
            assert info is not None
            await self._adapters.load_modules()
            self._served.set_ready(info)
            for line in ready_banner(self._config, self._served.name, info, time.perf_counter() - self._started):
                log.info("%s", line)
            if info.device.startswith("cpu"):
                _yield_to_engine()
            await receiving
        finally:
            receiving.cancel()

    async def _wait_for_files(self) -> ModelFiles:
        waiting = asyncio.wrap_future(self._starter.files)
        while not waiting.done():
            self._client.set_phase(self._starter.phase)
            await asyncio.wait({waiting}, timeout=0.2)
        return await waiting

    async def _finish_open_requests(self) -> None:
        """Waits for open requests, up to --shutdown-timeout; a second signal ends the wait."""
        self._drain.begin()
        deadline = time.monotonic() + self._config.http.shutdown_timeout
        while self._client.num_open_requests and time.monotonic() < deadline and self._signals.empty():
            await asyncio.sleep(0.05)
        if left := self._client.num_open_requests:
            log.warning("%d requests were still open and are aborted", left)

    def _uvicorn_config(self) -> uvicorn.Config:
        http = self._config.http
        logging.getLogger("uvicorn.access").addFilter(_is_no_probe)
        app = create_app(self._config, self._client, self._served, self._drain, self._adapters)
        return uvicorn.Config(
            app,
            http=LimitedHttpToolsProtocol,
            loop="none",
            log_config=None,
            log_level=http.uvicorn_log_level,
            access_log=not http.disable_uvicorn_access_log,
            root_path=http.root_path,
            server_header=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=_FLUSH_S,
            backlog=2048,
        )
