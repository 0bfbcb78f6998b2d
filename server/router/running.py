"""The life of a router: listen at once, learn of the servers, serve, drain, stop in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from contextlib import ExitStack
from typing import Protocol

import uvloop

from headway.server.garbage import spare_long_lived
from headway.server.listen import bind_tcp
from headway.server.private_directory import private_directory
from headway.server.router.config import RouterConfig
from headway.server.router.serving import Router
from headway.server.router.sources.base import Listing, Source
from headway.server.router.sources.choice import source_of
from headway.server.router.workers import Workers
from headway.server.signals import STOP_SIGNALS
from headway.server.words import plural

log = logging.getLogger(__name__)


class Crew(Protocol):
    """Those who serve: this process, or several beside it."""

    def begin(self) -> None: ...

    async def ready(self) -> None:
        """Returns once all of them listen."""

    async def failed(self) -> str:
        """Returns, with the reason, once it is no use to go on."""

    def change_servers(self, listing: Listing) -> None: ...

    def begin_drain(self) -> None: ...

    @property
    def num_open(self) -> int:
        """Requests that are not answered to their end."""

    @property
    def may_take_work(self) -> bool:
        """Whether one has not heard of the drain yet."""

    async def stop(self) -> None:
        """What is still open ends now, and is told so."""


def run_router(config: RouterConfig) -> int:
    """Serves until a signal; returns the exit status. Raises ConfigError for files and addresses that can't be used."""
    source = source_of(config)
    with ExitStack() as stack:
        listeners = bind_tcp(config.listen.host, config.listen.port)
        for listener in listeners:
            stack.callback(listener.close)
        shown = [_shown(listener) for listener in listeners]
        crew: Crew
        if config.listen.workers > 1:
            crew = Workers(config, source.listing, listeners, stack.enter_context(private_directory()))
            stack.callback(crew.kill)
        else:
            crew = Alone(Router(config, source.listing), listeners)
        # Not uvloop.run, which would wait at its end for what still runs in threads: the look at a file system that hangs, for one.
        return uvloop.new_event_loop().run_until_complete(Life(config, source, crew).run(shown))


class Alone:
    """See Crew: this process itself."""

    def __init__(self, router: Router, listeners: list[socket.socket]) -> None:
        self._router = router
        self._listeners = listeners

    def begin(self) -> None:
        spare_long_lived()
        self._serving = asyncio.create_task(self._router.serve(self._listeners))

    async def ready(self) -> None:
        await self._router.ready()

    async def failed(self) -> str:
        await asyncio.wait({self._serving})
        return "The HTTP server ended by itself"

    def change_servers(self, listing: Listing) -> None:
        self._router.change_servers(listing)

    def begin_drain(self) -> None:
        self._router.begin_drain()

    @property
    def num_open(self) -> int:
        return self._router.num_open

    @property
    def may_take_work(self) -> bool:
        return False

    async def stop(self) -> None:
        await self._router.stop()
        await self._serving


class Life:
    """From bound listeners to the end."""

    def __init__(self, config: RouterConfig, source: Source, crew: Crew) -> None:
        self._source = source
        self._crew = crew
        self._shutdown_timeout = config.listen.shutdown_timeout
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    async def run(self, shown: list[str]) -> int:
        """Until a signal. ``shown``: where it listens."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.stop, number)
        return await self.serve(shown)

    def stop(self, number: signal.Signals) -> None:
        """The first one begins the drain; a second one ends it. On the loop's thread."""
        self._signals.put_nowait(number)

    async def serve(self, shown: list[str]) -> int:
        self._crew.begin()
        failed = asyncio.create_task(self._crew.failed())
        asked_to_stop = asyncio.create_task(self._signals.get())
        helpers = [asyncio.create_task(self._look()), asyncio.create_task(self._tell_ready(shown)), failed, asked_to_stop]
        await asyncio.wait({failed, asked_to_stop}, return_when=asyncio.FIRST_COMPLETED)
        if is_asked := asked_to_stop.done():
            log.info("%s: refusing new work, %s open", asked_to_stop.result().name, plural(self._crew.num_open, "request"))
        else:
            log.error("%s", failed.result())
        await self._finish_open_requests()
        for helper in helpers:
            helper.cancel()
        await self._crew.stop()
        return 0 if is_asked else 1

    async def _look(self) -> None:
        try:
            await self._source.run(self._crew.change_servers)
        except Exception:  # the edge of a task: those that are known go on
            log.exception("Looking for servers broke; those of before stay")

    async def _tell_ready(self, shown: list[str]) -> None:
        await self._crew.ready()
        listing = self._source.listing
        for address in shown:
            log.info("listening on %s for %s", address, plural(len(listing.serving) + len(listing.prefill), "server"))

    async def _finish_open_requests(self) -> None:
        """Waits for them, up to --shutdown-timeout; a second signal ends the wait."""
        self._crew.begin_drain()
        deadline = time.monotonic() + self._shutdown_timeout
        while (self._crew.num_open or self._crew.may_take_work) and time.monotonic() < deadline and self._signals.empty():
            await asyncio.sleep(0.05)
        if num_left := self._crew.num_open:
            log.warning("%s still open and cut off", plural(num_left, "request"))


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
