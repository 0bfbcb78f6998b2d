"""The leader's side of the processes that serve beside each other: starts them, tells them, replaces those that end, ends them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import multiprocessing
import socket
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TypeVar

import msgspec

from headway.server.children import exited, how_it_ended
from headway.server.counts import LEADER, Count, Counts
from headway.server.errors import sentence_of
from headway.server.machine import num_oom_kills
from headway.server.siblings.listeners import another
from headway.server.siblings.orders import End, OrderSender
from headway.server.siblings.restarts import MAX_RESTARTS, WITHIN_S, Restarts

log = logging.getLogger(__name__)

_Arguments = TypeVar("_Arguments")
# A member flushes answers for 2 s (http_server.py) before it exits.
_END_PATIENCE_S = 2.5


class _Member:
    """One of them: its process, and how to tell it something."""

    def __init__(self, index: int, orders: OrderSender, process: BaseProcess, oom_kills_before: int) -> None:
        self.index = index
        self.process = process
        self._orders = orders
        self._oom_kills_before = oom_kills_before

    def send(self, order: msgspec.Struct) -> None:
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
        return how_it_ended(self.process.exitcode, self._oom_kills_before)


def launch(
    name: str,
    entry: Callable[[_Arguments], object],
    arguments: Callable[[list[socket.socket]], _Arguments],
    places: Sequence[socket.socket],
) -> BaseProcess:
    """Starts a process that calls ``entry`` with what ``arguments`` makes of sockets of its own beside the shared ``places``."""
    listeners = [another(place) for place in places]
    try:
        process = multiprocessing.get_context("spawn").Process(target=entry, args=(arguments(listeners),), name=name, daemon=True)
        process.start()
    finally:
        for listener in listeners:
            listener.close()  # the process has its own: when that ends, nobody must wait on this one
    return process


class Members:
    """All processes but this one; rows 1 and above of ``counts``. ``begin`` may come before the event loop, the rest is on it.

    ``given_up`` is set, with ``reason``, once one has ended and is not replaced.
    """

    def __init__(self, noun: str, directory: Path, counts: Counts, launch: Callable[[int], BaseProcess]) -> None:
        """``noun``: what one is called in a sentence; ``launch`` starts the process with an index and returns it."""
        self._noun = noun
        self._directory = directory
        self._counts = counts
        self._launch = launch
        self._members: dict[int, _Member] = {}
        self._restarts = Restarts()
        self._keeping: list[asyncio.Task[None]] = []
        self._told_later: msgspec.Struct | None = None
        self.given_up = asyncio.Event()
        self.reason: str | None = None

    def begin(self) -> None:
        for index in range(1, self._counts.num_processes):
            self._start(index)

    def keep(self, on_end: Callable[[int], object], on_restart: Callable[[int], object]) -> None:
        """From now on another process takes the place of one that ends; the two hear its index."""
        self._keeping = [asyncio.create_task(self._keep(index, on_end, on_restart)) for index in list(self._members)]

    def is_one(self, pid: int) -> bool:
        return any(member.process.pid == pid for member in self._members.values())

    def _start(self, index: int) -> None:
        oom_kills_before = num_oom_kills()
        process = self._launch(index)
        member = self._members[index] = _Member(index, OrderSender(self._directory, index), process, oom_kills_before)
        log.info("%s %d is process %d", self._noun, index, process.pid)
        if self._told_later is not None:
            member.send(self._told_later)

    async def _keep(self, index: int, on_end: Callable[[int], object], on_restart: Callable[[int], object]) -> None:
        while True:
            await exited(self._members[index].process.sentinel)
            ending = self._bury(index)
            on_end(index)
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
            on_restart(index)

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
        return f"{self._noun} {index} {ending}"

    def tell(self, order: msgspec.Struct) -> None:
        for member in self._members.values():
            member.send(order)

    def tell_later_ones_too(self, order: msgspec.Struct) -> None:
        """Those that are started later hear the last such order first."""
        self._told_later = order
        self.tell(order)

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
