"""The leader's side of the other API processes: starts them, tells them, replaces those that end, ends them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from headway.server.api_processes.arguments import FollowerArguments
from headway.server.api_processes.entry import run_follower
from headway.server.api_processes.listeners import another, share
from headway.server.api_processes.orders import BeginDrain, End, EngineEnded, FilesFound, Order, OrderSender, Preparing
from headway.server.api_processes.restarts import MAX_RESTARTS, WITHIN_S, Restarts
from headway.server.api_processes.serving import niceness
from headway.server.children import exited, how_it_ended
from headway.server.config.server import ServerConfig
from headway.server.counts import LEADER, Count, Counts
from headway.server.engine.data_parallel.client import DataParallelClient
from headway.server.errors import sentence_of
from headway.server.machine import num_oom_kills
from headway.server.source.files import ModelFiles

log = logging.getLogger(__name__)

# A follower flushes answers for 2 s (http_server.py) before it exits.
_END_PATIENCE_S = 2.5


class _Member:
    """One follower: its process, and how to tell it something."""

    def __init__(self, arguments: FollowerArguments) -> None:
        self.index = arguments.index
        self._oom_kills_before = num_oom_kills()
        self._orders = OrderSender(arguments.directory, arguments.index)
        self.process = multiprocessing.get_context("spawn").Process(
            target=run_follower, args=(arguments,), name=f"headway-api-{arguments.index}", daemon=True
        )
        self.process.start()
        for listener in arguments.listeners:
            listener.close()  # the process has its own: when that ends, nobody must wait on this one

    def send(self, order: Order) -> None:
        self._orders.send(order)

    def cpu_ms(self) -> int:
        """So far; asked before ``buried`` it is that of its whole life."""
        import psutil

        with contextlib.suppress(psutil.Error):
            times = psutil.Process(self.process.pid).cpu_times()
            return int((times.user + times.system) * 1000)
        return 0

    def buried(self) -> str:
        """What there is to say of a process that has ended."""
        self._orders.close()
        self.process.join()
        return f"API process {self.index} {how_it_ended(self.process.exitcode, self._oom_kills_before)}"


class Followers:
    """All API processes but this one; none where --api-server-count is 1. ``begin`` comes before the event loop, the rest is on it.

    ``given_up`` is set, with ``reason``, once one has ended and is not replaced.
    """

    def __init__(
        self,
        config: ServerConfig,
        directory: Path,
        cache_dir: Path,
        listeners: list[socket.socket],
        counts: Counts,
        telemetry: Mapping[str, str],
    ) -> None:
        """``telemetry``: OpenTelemetry's variables."""
        self._config = config
        self._directory = directory
        self._cache_dir = cache_dir
        self._listeners = listeners  # the leader's own
        self._counts = counts
        self._telemetry = telemetry
        self._niceness = niceness()
        self._members: dict[int, _Member] = {}
        self._restarts = Restarts()
        self._keeping: list[asyncio.Task[None]] = []
        self._found: FilesFound | None = None
        self.given_up = asyncio.Event()
        self.reason: str | None = None

    def begin(self) -> None:
        if self._counts.num_processes > 1:
            for listener in self._listeners:
                share(listener)
        for index in range(1, self._counts.num_processes):
            self._start(index)

    def keep(self, engines: DataParallelClient) -> None:
        """From now on another process takes the place of one that ends."""
        self._keeping = [asyncio.create_task(self._keep(index, engines)) for index in list(self._members)]

    def is_one(self, pid: int) -> bool:
        return any(member.process.pid == pid for member in self._members.values())

    def _start(self, index: int) -> None:
        listeners = [another(listener) for listener in self._listeners]
        member = self._members[index] = _Member(
            FollowerArguments(index, self._config, self._directory, self._cache_dir, listeners, self._telemetry, self._niceness)
        )
        log.info("API process %d is process %d", index, member.process.pid)
        if self._found is not None:
            member.send(self._found)

    async def _keep(self, index: int, engines: DataParallelClient) -> None:
        while True:
            await exited(self._members[index].process.sentinel)
            ending = self._bury(index)
            engines.drop_client(index)
            if self._drains():
                log.error("%s", ending)
                return
            delay_s = self._restarts.next_delay_s()
            if delay_s is None:
                self._give_up(f"{ending}; {MAX_RESTARTS} were started again within {WITHIN_S / 60:.0f} minutes, and no more are")
                return
            log.error("%s; another one is started in %g s", ending, delay_s)
            await asyncio.sleep(delay_s)
            if self._drains():
                return
            try:
                self._start(index)
            except OSError as problem:
                self._give_up(f"{ending}, and another one can't be started: {sentence_of(problem)}")
                return
            engines.add_client(index)

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        self.given_up.set()

    def _drains(self) -> bool:
        return bool(self._counts.of(LEADER, Count.IS_DRAINING))

    def _bury(self, index: int) -> str:
        member = self._members.pop(index)
        self._counts.add(Count.ENDED_CPU_MS, member.cpu_ms())
        from headway.server.api.process_metrics import forget_gauges  # prometheus_client, which wants its directory first

        assert member.process.pid is not None, "it was started"
        forget_gauges(member.process.pid)
        ending = member.buried()
        self._counts.retire(index)
        return ending

    # Orders

    def tell_phase(self, phase: str) -> None:
        self._tell(Preparing(phase))

    def tell_files(self, files: ModelFiles) -> None:
        """Those that are started later hear of it, too."""
        self._found = FilesFound(files)
        self._tell(self._found)

    def tell_engine_end(self, cause: str) -> None:
        self._tell(EngineEnded(cause))

    def begin_drain(self) -> None:
        self._tell(BeginDrain())

    def _tell(self, order: Order) -> None:
        for member in self._members.values():
            member.send(order)

    # States

    async def all_ready(self) -> None:
        while not all(self._counts.of(index, Count.IS_READY) for index in range(1, self._counts.num_processes)):
            await asyncio.sleep(0.02)

    @property
    def may_take_work(self) -> bool:
        """Whether one of them has not heard of the drain yet."""
        return any(self._counts.of(index, Count.IS_READY) and not self._counts.of(index, Count.IS_DRAINING) for index in self._members)

    # The end

    async def stop(self) -> None:
        """Asks all to end, which they do once answers are flushed, and makes sure."""
        for task in self._keeping:
            task.cancel()
        for member in self._members.values():
            if self._counts.of(member.index, Count.IS_READY):
                member.send(End())
            else:
                member.process.kill()  # it does not listen yet, and has nothing open
        await asyncio.to_thread(self.kill, _END_PATIENCE_S)

    def kill(self, patience_s: float) -> None:
        """Waits that long for all together, then makes sure. Safe to repeat."""
        deadline = time.monotonic() + patience_s
        for member in self._members.values():
            member.process.join(max(deadline - time.monotonic(), 0))
            if member.process.is_alive():
                member.process.kill()
                member.process.join()
