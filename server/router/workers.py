"""Several processes that serve one port, of which this one is none: it starts them, tells them of servers, and ends them."""

from __future__ import annotations

import os
import socket
from multiprocessing.process import BaseProcess
from pathlib import Path

from headway.server.counts import Count, Counts
from headway.server.router.config import RouterConfig
from headway.server.router.serving import server_tls
from headway.server.router.sources.base import Listing
from headway.server.router.upstream import Upstream
from headway.server.router.worker import WorkerArguments, run_worker
from headway.server.siblings.listeners import another, share
from headway.server.siblings.members import Members, launch
from headway.server.siblings.orders import BeginDrain


class Workers:
    """See Crew. Each knows the health and load of servers by itself, as routers on several machines would."""

    def __init__(self, config: RouterConfig, listing: Listing, listeners: list[socket.socket], directory: Path) -> None:
        """Raises ConfigError for files that none of them could use."""
        server_tls(config)
        Upstream(config.upstream)
        self._config = config
        self._listing = listing
        self._directory = directory
        metrics = directory / "metrics"
        metrics.mkdir()
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)  # read when prometheus_client is imported, in those processes
        self._counts = Counts.create(directory, 1 + config.listen.workers)
        # These keep the port when all workers are gone, and take no connections themselves.
        self._places = [_place(listener) for listener in listeners]
        self._members = Members("Router process", directory, self._counts, self._launch)

    def _launch(self, index: int) -> BaseProcess:
        def arguments(listeners: list[socket.socket]) -> WorkerArguments:
            return WorkerArguments(index, self._config, self._listing, self._directory, listeners)

        return launch(f"headway-router-{index}", run_worker, arguments, self._places)

    def begin(self) -> None:
        self._members.begin()
        self._members.keep(_untold, _untold)

    async def ready(self) -> None:
        await self._members.all_ready()

    async def failed(self) -> str:
        await self._members.given_up.wait()
        assert self._members.reason is not None
        return self._members.reason

    def change_servers(self, listing: Listing) -> None:
        self._listing = listing
        self._members.tell(listing)

    def begin_drain(self) -> None:
        self._counts.set(Count.IS_DRAINING, 1)
        self._members.tell(BeginDrain())

    @property
    def num_open(self) -> int:
        return self._counts.total(Count.OPEN_REQUESTS)

    @property
    def may_take_work(self) -> bool:
        return self._members.may_take_work

    async def stop(self) -> None:
        await self._members.stop()

    def kill(self) -> None:
        self._members.kill(patience_s=0)
        for place in self._places:
            place.close()


def _place(listener: socket.socket) -> socket.socket:
    """Bound where ``listener`` listens, which ends: nobody would accept what comes there."""
    share(listener)
    place = another(listener)
    listener.close()
    return place


def _untold(index: int) -> None:
    """Nobody else has to know which of them ends."""
