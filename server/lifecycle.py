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
from headway.server.api_processes.followers import Followers
from headway.server.api_processes.serving import hush_stages, niceness, yield_to_engine
from headway.server.banner import ready_banner
from headway.server.config.server import ServerConfig, secrets_of
from headway.server.counts import Count, Counts
from headway.server.engine.data_parallel.client import DataParallelClient
from headway.server.errors import HeadwayError, sentence_of
from headway.server.garbage import spare_long_lived
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
# How long a dying engine has to write the rest of its log.
_LAST_LINES_S = 2.0


class Outcome(NamedTuple):
    """How the serving ended: the exit status, and the last words where it is not 0."""

    status: int
    last_words: str | None


class Lifecycle:
    """The leading API process from bound listeners to its end. ``started`` is time.monotonic() at the process's start."""

    def __init__(
        self,
        config: ServerConfig,
        starter: EngineStarter,
        followers: Followers,
        counts: Counts,
        listeners: list[socket.socket],
        tls: ServerTls | None,
        early: EarlyStop,
        started: float,
        custom: CustomHandlers | None,
        tracing: Tracing | None,
    ) -> None:
        self._config = config
        self._starter = starter
        self._followers = followers
        self._counts = counts
        self._listeners = listeners
        self._tls = tls
        self._early = early
        self._started = started
        self._custom = custom
        self._tracing = tracing
        self._client = DataParallelClient(config, starter.directory, counts, on_phase=starter.phases.enter)
        self._drain = Drain(counts)
        self._served = Served.of(config)
        self._adapters = AdapterRegistry(config.lora, self._client, self._served.names)
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    def run(self) -> Outcome:
        # Not uvloop.run, which would wait at its end for what still runs in threads: the tokenizer's download, for one.
        return uvloop.new_event_loop().run_until_complete(self._live())

    async def _live(self) -> Outcome:
        self._take_signals()
        hush_stages()
        app = create_app(
            self._config,
            self._client,
            self._served,
            self._drain,
            self._adapters,
            self._custom,
            self._starter.phases.seconds,
            self._tracing,
            counts=self._counts,
        )
        server = HttpServer(app, self._config, self._tls)
        serving = asyncio.create_task(server.serve(sockets=self._listeners))
        starting = asyncio.create_task(self._get_ready())
        asked_to_stop = asyncio.create_task(self._signals.get())
        died = asyncio.create_task(self._tell_engine_end())
        self._followers.keep(self._client)
        given_up = asyncio.create_task(self._followers.members.given_up.wait())
        helpers = [starting, died, asked_to_stop, given_up]
        if os.getpid() == 1:
            helpers.append(asyncio.create_task(Reaper(self._is_ours).run()))
        await asyncio.wait({serving, starting, asked_to_stop, died, given_up}, return_when=asyncio.FIRST_COMPLETED)
        outcome = await self._end(server, starting, asked_to_stop)
        await self._client.stop(self._starter.processes)  # first, so that every process gets the last deltas of its streams
        server.should_exit = True
        await asyncio.gather(serving, self._followers.members.stop())
        for task in helpers:
            task.cancel()
        return outcome

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self._signals.put_nowait, number)
        if self._early.asked is not None:
            self._signals.put_nowait(self._early.asked)

    def _is_ours(self, pid: int) -> bool:
        return self._starter.processes.is_one(pid) or self._followers.members.is_one(pid)

    async def _tell_engine_end(self) -> None:
        await self._client.ended.wait()
        assert self._client.dead_cause is not None
        self._followers.tell_engine_end(self._client.dead_cause)
        await asyncio.to_thread(self._starter.processes.kill, _LAST_LINES_S)  # those that live would compute for nobody

    async def _end(self, server: HttpServer, starting: asyncio.Task[None], asked_to_stop: asyncio.Task[signal.Signals]) -> Outcome:
        """What ended the serving, dealt with."""
        if asked_to_stop.done():
            log.info("%s: refusing new work, %d requests open", asked_to_stop.result().name, self._client.num_open_requests)
            await self._finish_open_requests(server)
            return Outcome(0, None) if self._client.dead_cause is None else Outcome(1, self._engine_has_stopped())
        if starting.done() and (problem := starting.exception()) is not None:
            self._client.die(self._shown(sentence_of(problem)))
            if not isinstance(problem, HeadwayError):
                log.error("The start failed", exc_info=problem)
            return Outcome(2 if isinstance(problem, HeadwayError) else 1, sentence_of(problem))
        if self._client.died_of_user_error:
            return Outcome(2, self._client.dead_cause)
        if (reason := self._followers.members.reason) is not None:
            log.error("%s", reason)
            await self._finish_open_requests(server)
            return Outcome(1, reason)
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
        """From the model's files to ready, then receives from the engines until one ends. Raises what kept it from starting."""
        files = await self._wait_for_files()
        self._followers.tell_files(files)
        receiving = asyncio.create_task(self._client.run([process.ended() for process in self._starter.processes.all]))
        try:
            loading_since = time.monotonic()
            await self._served.load(self._config, files, self._starter.cache_dir)
            told("loading the tokenizer", time.monotonic() - loading_since)
            spare_long_lived()  # now, since the engine takes longer
            await self._client.became_ready.wait()
            info = self._client.info
            assert info is not None
            await self._adapters.load_modules()
            self._served.set_ready(info)
            await self._followers.members.all_ready()
            self._counts.set(Count.HAS_OPENED, 1)
            for line in ready_banner(self._config, self._served.name, info, time.monotonic() - self._started):
                log.info("%s", line)
            if info.device.startswith("cpu"):
                yield_to_engine(niceness())
            await receiving
        finally:
            receiving.cancel()

    async def _wait_for_files(self) -> ModelFiles:
        waiting = asyncio.wrap_future(self._starter.files)
        current = ""
        while not waiting.done():
            phase = self._shown(self._starter.phase)
            if phase != current:
                current = phase
                self._client.set_phase(phase)
                self._followers.tell_phase(phase)
            await asyncio.wait({waiting}, timeout=0.2)
        return await waiting

    async def _finish_open_requests(self, server: HttpServer) -> None:
        """Waits for open requests and WebSockets, up to --shutdown-timeout; a second signal ends the wait."""
        self._drain.begin()
        close_after_answers(server)
        self._followers.begin_drain()
        deadline = time.monotonic() + self._config.network.shutdown_timeout
        while self._is_busy() and time.monotonic() < deadline and self._signals.empty():
            await asyncio.sleep(0.05)
        if left := self._client.num_open_requests:
            log.warning("%d requests were still open and are aborted", left)

    def _is_busy(self) -> bool:
        """Whether something is open that ends by itself: requests that are frozen in a sleep don't, nor do those who wait for them."""
        if self._followers.members.may_take_work:
            return True
        if self._client.num_open_requests:
            return not self._client.sleep_state.is_asleep
        return self._drain.num_held > 0
