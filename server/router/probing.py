"""Asks each server for its health, every few seconds."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Sequence

from headway.server.errors import ServerDraining
from headway.server.router.config import UpstreamConfig
from headway.server.router.fleet import Fleet
from headway.server.router.servers import Server
from headway.server.router.upstream import ServerBroke, ServerUnreached, Upstream

log = logging.getLogger(__name__)


class Prober:
    """``run`` is the loop; the answer to each question goes to the server's fleet. None that is late holds up another one's."""

    def __init__(self, config: UpstreamConfig, fleets: Sequence[Fleet], upstream: Upstream) -> None:
        self._path = config.health_path
        self._interval_s, self._timeout_s = config.health_interval_s, config.health_timeout_s
        self._fleets = fleets
        self._upstream = upstream
        self._wake = asyncio.Event()
        self._asked: set[Server] = set()  # and have not answered yet

    async def run(self) -> None:
        """Never returns."""
        async with asyncio.TaskGroup() as questions:
            while True:
                self._wake.clear()
                for fleet in self._fleets:
                    for server in fleet.servers:
                        if server not in self._asked:
                            self._asked.add(server)
                            questions.create_task(self._ask_once(fleet, server))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._interval_s)

    def hurry(self) -> None:
        """The next round begins now: there are new servers."""
        self._wake.set()

    async def _ask_once(self, fleet: Fleet, server: Server) -> None:
        try:
            await self._ask(fleet, server)
        except ServerDraining:
            return
        except Exception:  # the edge of a task: without it nobody would ever be healthy again
            log.exception("A question about the health of %s broke", server.url)
        finally:
            self._asked.discard(server)

    async def _ask(self, fleet: Fleet, server: Server) -> None:
        try:
            async with asyncio.timeout(self._timeout_s), await self._upstream.ask("GET", server.url, self._path) as answer:
                while await answer.next_piece():
                    pass
        except TimeoutError:
            fleet.was_late(server, f"it did not answer {self._path} within {self._timeout_s:g} s")
        except ServerUnreached as problem:
            fleet.refused(server, str(problem))
        except ServerBroke as problem:
            fleet.was_late(server, str(problem))
        else:
            if 200 <= answer.status < 300:
                fleet.is_well(server)
            else:
                fleet.refused(server, f"{self._path} answers {answer.status}")
