"""The life of a router: listen at once, ask the servers, serve, drain, stop in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from headway.server.api.file_watch import keep_looking
from headway.server.api.http_server import LimitedServer, close_after_answers
from headway.server.garbage import spare_long_lived
from headway.server.listen import bind_tcp
from headway.server.router.app import RouterApp
from headway.server.router.config import RouterConfig
from headway.server.router.fleet import Fleet
from headway.server.router.metrics import RouterMetrics
from headway.server.router.policies.choice import POLICIES
from headway.server.router.probing import Prober
from headway.server.router.proxy import Proxy
from headway.server.router.server_list import ServerFile, distinct
from headway.server.router.upstream import Upstream
from headway.server.signals import STOP_SIGNALS
from headway.server.words import plural

if TYPE_CHECKING:
    from headway.server.api.tls.server_tls import ServerTls

log = logging.getLogger(__name__)

_MOST_WEBSOCKET_BYTES = 1024  # each is refused


def run_router(config: RouterConfig) -> int:
    """Serves until a signal; returns the exit status. Raises ConfigError for files and addresses that can't be used."""
    file = ServerFile(config.routing.servers_file) if config.routing.servers_file is not None else None
    tls = _tls(config)
    upstream = Upstream(config.upstream)
    with ExitStack() as stack:
        listeners = bind_tcp(config.listen.host, config.listen.port)
        for listener in listeners:
            stack.callback(listener.close)
        router = Router(config, file, upstream, tls)
        # Not uvloop.run, which would wait at its end for what still runs in threads: the look at a file system that hangs, for one.
        return uvloop.new_event_loop().run_until_complete(router.run(listeners))


def _tls(config: RouterConfig) -> ServerTls | None:
    if not config.tls.is_on:
        return None
    from headway.server.api.tls.server_tls import ServerTls  # cryptography

    return ServerTls(config.tls)


class Router:
    """From bound listeners to the end."""

    def __init__(self, config: RouterConfig, file: ServerFile | None, upstream: Upstream, tls: ServerTls | None) -> None:
        self._config = config
        self._file = file
        self._upstream = upstream
        self.metrics = RouterMetrics()
        self.fleet = Fleet(POLICIES[config.routing.policy](), self.metrics, config.upstream.eject_after)
        self.fleet.update(file.urls if file is not None else distinct(config.routing.servers))
        self._prober = Prober(config.upstream, self.fleet, upstream)
        proxy = Proxy(config.routing, self.fleet, upstream, self.metrics)
        self.app = RouterApp(config, self.fleet, proxy, self.metrics)
        self._server = LimitedServer(
            self.app, config.connections, max_websocket_bytes=_MOST_WEBSOCKET_BYTES, log_level="warning", lifespan="off", tls=tls
        )
        self._signals: asyncio.Queue[signal.Signals] = asyncio.Queue()

    async def run(self, listeners: list[socket.socket]) -> int:
        """Until a signal."""
        loop = asyncio.get_running_loop()
        for number in STOP_SIGNALS:
            loop.add_signal_handler(number, self.stop, number)
        spare_long_lived()
        return await self.serve(listeners)

    def stop(self, number: signal.Signals) -> None:
        """The first one begins the drain; a second one ends it. On the loop's thread."""
        self._signals.put_nowait(number)

    async def serve(self, listeners: list[socket.socket]) -> int:
        async with self._upstream:
            serving = asyncio.create_task(self._server.serve(sockets=listeners))
            helpers = [asyncio.create_task(self._prober.run())]
            if self._file is not None:
                helpers.append(asyncio.create_task(keep_looking(partial(self._file.look, self._hand_over(asyncio.get_running_loop())))))
            asked_to_stop = asyncio.create_task(self._signals.get())
            for listener in listeners:
                log.info("listening on %s for %s", _shown(listener), plural(len(self.fleet.servers), "server"))
            await asyncio.wait({serving, asked_to_stop}, return_when=asyncio.FIRST_COMPLETED)
            is_asked = asked_to_stop.done()
            if is_asked:
                log.info("%s: refusing new work, %s open", asked_to_stop.result().name, plural(self.app.num_open, "request"))
                await self._finish_open_requests()
            else:
                asked_to_stop.cancel()
            for helper in helpers:
                helper.cancel()
            await self._upstream.close()  # what is still open is told so, in its stream
            self._server.should_exit = True
            await serving
            return 0 if is_asked else 1

    def _hand_over(self, loop: asyncio.AbstractEventLoop) -> Callable[[list[str]], object]:
        """From the thread that looks at the file."""
        return lambda urls: loop.call_soon_threadsafe(self._change_servers, urls)

    def _change_servers(self, urls: list[str]) -> None:
        self.fleet.update(urls)
        self._prober.hurry()

    async def _finish_open_requests(self) -> None:
        """Waits for them, up to --shutdown-timeout; a second signal ends the wait."""
        self.app.drain()
        close_after_answers(self._server)
        deadline = time.monotonic() + self._config.listen.shutdown_timeout
        while self.app.num_open and time.monotonic() < deadline and self._signals.empty():
            await asyncio.sleep(0.05)
        if self.app.num_open:
            log.warning("%s still open and cut off", plural(self.app.num_open, "request"))


def _shown(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
