"""The life of a server: listen at once, get ready, serve, drain, stop in order, exit with the truth."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

import uvloop

from headway.server.api.adapters import AdapterRegistry
from headway.server.api.app import create_app
from headway.server.api.deps import Drain, Served
from headway.server.api.http_server import HttpServer, close_after_answers
from headway.server.api.sagemaker.custom.loading import CustomHandlers
from headway.server.banner import ready_banner
from headway.server.config.server import ServerConfig, secrets_of
from headway.server.engine.admission import Admission
from headway.server.engine.process_client import ProcessEngineClient
from headway.server.errors import HeadwayError, sentence_of
from headway.server.log import masked
from headway.server.phases import told
from headway.server.reaper import Reaper
from headway.server.signals import STOP_SIGNALS, EarlyStop
from headway.server.source.files import ModelFiles
from headway.server.starter import EngineStarter

if TYPE_CHECKING:
    from headway.server.api.tls.server_tls import ServerTls
    from headway.server.api.tracing import Tracing

log = logging.getLogger(__name__)

# A dead server answers 503 with its reason for this long, so that health checks see it; then it exits.
DEAD_LINGER_S = 5.0
# Where uvicorn tells of its own start and end.
_STAGES = frozenset({"server", "on"})


class Outcome(NamedTuple):
    """How the serving ended: the exit status, and the last words where it is not 0."""

    status: int
    last_words: str | None


def _is_no_stage(record: logging.LogRecord) -> bool:
    """Its "Application startup complete." comes seconds or minutes before the server is ready, and would be taken for that."""
    return record.module not in _STAGES or record.levelno > logging.INFO


def _yield_to_engine() -> None:
    """Lowers this thread's priority, the event loop's, where the engine computes on the same cores.

    The engine's threads wait for each other many times a layer, so each moment taken from one is taken from all: 8 streams of the
    demo model on 2 cores went from 177 to 208 tokens/s (2026-11). The loop still runs whenever an engine thread sleeps.
    """
    os.nice(10)


class Lifecycle:
    """The API process from bound listeners to its end. ``started`` is time.monotonic() at the process's start."""

    def __init__(
        self,
        config: ServerConfig,
        starter: EngineStarter,
        listeners: list[socket.socket],
        tls: ServerTls | None,
        early: EarlyStop,
        started: float,
        custom: CustomHandlers | None,
        tracing: Tracing | None,
    ) -> None:
        self._config = config
        self._starter = starter
        self._listeners = listeners
        self._tls = tls
        self._early = early
        self._started = started
        self._custom = custom
        self._tracing = tracing
        overload = config.overload
        admission = Admission(overload.max_num_queued_reqs, overload.max_num_queued_tokens)
        self._client = ProcessEngineClient(starter.process, admission=admission, on_phase=starter.phases.enter)
        self._drain = Drain()
        self._served = Served.of(config)
        self._adapters = AdapterRegistry(config.lora, self._client, self._served.names)
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    def run(self) -> Outcome:
        # Not uvloop.run, which would wait at its end for what still runs in threads: the tokenizer's download, for one.
        return uvloop.new_event_loop().run_until_complete(self._live())

    async def _live(self) -> Outcome:
        self._take_signals()
        logging.getLogger("uvicorn.error").addFilter(_is_no_stage)
        phases = self._starter.phases.seconds
        app = create_app(self._config, self._client, self._served, self._drain, self._adapters, self._custom, phases, self._tracing)
        if self._tls is not None:
            text = "When the server's certificate expires, in seconds since 1970."
            app.state.headway.metrics.add_gauge("tls_certificate_expiry_timestamp_seconds", text, self._tls.expires_at)
        server = HttpServer(app, self._config, self._tls)
        serving = asyncio.create_task(server.serve(sockets=self._listeners))
        starting = asyncio.create_task(self._get_ready())
        asked_to_stop = asyncio.create_task(self._signals.get())
        died = asyncio.create_task(self._client.ended.wait())
        helpers = [starting, died, asked_to_stop]
        if os.getpid() == 1:
            helpers.append(asyncio.create_task(Reaper(lambda pid: pid == self._starter.process.pid).run()))
        await asyncio.wait({serving, starting, asked_to_stop, died}, return_when=asyncio.FIRST_COMPLETED)
        outcome = await self._end(server, starting, asked_to_stop)
        await self._client.stop()
        server.should_exit = True
        await serving
        for task in helpers:
            task.cancel()
        return outcome

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        if self._early.asked is not None:
            self._signals.put_nowait(self._early.asked)

    async def _end(self, server: HttpServer, starting: asyncio.Task[None], asked_to_stop: asyncio.Task[signal.Signals]) -> Outcome:
        """What ended the serving, dealt with."""
        if asked_to_stop.done():
            log.info("%s: refusing new work, %d requests open", asked_to_stop.result().name, self._client.num_open_requests)
            self._drain.begin()
            close_after_answers(server)
            await self._finish_open_requests()
            return Outcome(0, None) if self._client.dead_cause is None else Outcome(1, self._engine_has_stopped())
        if starting.done() and (problem := starting.exception()) is not None:
            self._client.die(self._shown(sentence_of(problem)))
            if not isinstance(problem, HeadwayError):
                log.error("The start failed", exc_info=problem)
            return Outcome(2 if isinstance(problem, HeadwayError) else 1, sentence_of(problem))
        if self._client.died_of_user_error:
            return Outcome(2, self._client.dead_cause)
        last_words = self._engine_has_stopped()
        log.error("%s", last_words)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(asked_to_stop), DEAD_LINGER_S)
        return Outcome(1, last_words)

    def _shown(self, text: str) -> str:
        """As it may stand on /ping, which everybody may ask."""
        return masked(text, secrets_of(self._config))

    def _engine_has_stopped(self) -> str:
        if self._client.dead_cause is None:
            return "the HTTP server ended by itself"
        meanwhile = "" if self._client.info else f" while {self._starter.phases.current}"
        return f"the engine has stopped{meanwhile}: {self._client.dead_cause}"

    async def _get_ready(self) -> None:
        """From the model's files to ready, then receives from the engine until it ends. Raises what kept it from starting."""
        files = await self._wait_for_files()
        receiving = asyncio.create_task(self._client.run())
        try:
            loading_since = time.monotonic()
            await self._served.load(self._config, files, self._starter.cache_dir)
            told("loading the tokenizer", time.monotonic() - loading_since)
            await self._client.became_ready.wait()
            info = self._client.info
            assert info is not None
            await self._adapters.load_modules()
            self._served.set_ready(info)
            for line in ready_banner(self._config, self._served.name, info, time.monotonic() - self._started):
                log.info("%s", line)
            if info.device.startswith("cpu"):
                _yield_to_engine()
            await receiving
        finally:
            receiving.cancel()

    async def _wait_for_files(self) -> ModelFiles:
        waiting = asyncio.wrap_future(self._starter.files)
        while not waiting.done():
            self._client.set_phase(self._shown(self._starter.phase))
            await asyncio.wait({waiting}, timeout=0.2)
        return await waiting

    async def _finish_open_requests(self) -> None:
        """Waits for open requests and WebSockets, up to --shutdown-timeout; a second signal ends the wait."""
        deadline = time.monotonic() + self._config.network.shutdown_timeout
        while self._is_finishing() and time.monotonic() < deadline and self._signals.empty():
            await asyncio.sleep(0.05)
        if left := self._client.num_open_requests:
            log.warning("%d requests were still open and are aborted", left)

    def _is_finishing(self) -> bool:
        """Whether something is open that ends by itself: requests that are frozen in a sleep don't, nor do those who wait for them."""
        if self._client.num_open_requests:
            return not self._client.sleep_state.is_asleep
        return self._drain.num_held > 0
