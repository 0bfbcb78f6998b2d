"""Asks each server for its health, every few seconds."""

from __future__ import annotations

import asyncio
import logging

from headway.server.router.config import UpstreamConfig
from headway.server.router.fleet import Fleet
from headway.server.router.servers import Server
from headway.server.router.upstream import ServerBroke, ServerUnreached, Upstream

log = logging.getLogger(__name__)


class Prober:
    """``run`` is the loop; ``ask`` one question, whose answer goes to the fleet."""

    def __init__(self, config: UpstreamConfig, fleet: Fleet, upstream: Upstream) -> None:
        self._path = config.health_path
        self._interval_s, self._timeout_s = config.health_interval_s, config.health_timeout_s
        self._fleet = fleet
        self._upstream = upstream
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Never returns."""
        while True:
            self._wake.clear()
            try:
                await self.ask_all()
            except Exception:  # the edge of a task: without it nobody would ever be healthy again
                log.exception("A round of questions about health broke")
            try:
                await asyncio.wait_for(self._wake.wait(), self._interval_s)
            except TimeoutError:
                continue

    def hurry(self) -> None:
        """The next round begins now: there are new servers."""
        self._wake.set()

    async def ask_all(self) -> None:
        await asyncio.gather(*map(self._ask, self._fleet.servers))

    async def _ask(self, server: Server) -> None:
        try:
            async with asyncio.timeout(self._timeout_s), await self._upstream.ask("GET", server.url, self._path) as answer:
                while await answer.next_piece():
                    pass
        except TimeoutError:
            self._fleet.was_late(server, f"it did not answer {self._path} within {self._timeout_s:g} s")
        except ServerUnreached as problem:
            self._fleet.refused(server, str(problem))
        except ServerBroke as problem:
            self._fleet.was_late(server, str(problem))
        else:
            if 200 <= answer.status < 300:
                self._fleet.is_well(server)
            else:
                self._fleet.refused(server, f"{self._path} answers {answer.status}")
