"""A real router in front of small real servers, all on the test's own event loop."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from headway.server.listen import bind_tcp
from headway.server.router.config import RouterConfig
from headway.server.router.running import Router
from headway.server.router.server_list import ServerFile
from headway.server.router.upstream import Upstream
from headway.server.signals import STOP_SIGNALS

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def echo(request: web.Request) -> web.StreamResponse:
    return web.Response(body=await request.read(), headers={"x-path": request.raw_path})


class SmallServer:
    """``handle`` answers all but /ping, whose status is ``ping_status``."""

    def __init__(self, handle: Handler = echo) -> None:
        self.handle = handle
        self.ping_status = 200
        self.requests: list[web.Request] = []
        self.url = ""

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.path == "/ping":
            return web.Response(status=self.ping_status)
        self.requests.append(request)
        return await self.handle(request)


@asynccontextmanager
async def small_server(handle: Handler = echo, port: int = 0, ssl_context: Any = None) -> AsyncIterator[SmallServer]:
    server = SmallServer(handle)
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:(?s:.*)}", server._answer)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", port, ssl_context=ssl_context).start()
        server.url = f"{'https' if ssl_context else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
        yield server
    finally:
        await runner.cleanup()


class RoutedServers:
    """A running router. ``url`` is where it listens."""

    def __init__(self, router: Router, port: int, scheme: str) -> None:
        self.router = router
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"

    async def all_healthy(self) -> None:
        await until(lambda: self.router.fleet.num_healthy == len(self.router.fleet.servers))


@asynccontextmanager
async def routed(*urls: str, wait: bool = True, upstream: dict[str, Any] | None = None, **topics: Any) -> AsyncIterator[RoutedServers]:
    """A router for ``urls``, once all are healthy. ``topics`` are parts of RouterConfig; no servers: those of its file."""
    topics.setdefault("routing", {})
    if urls:
        topics["routing"]["servers"] = list(urls)
    config = RouterConfig.model_validate({"upstream": {"health_interval_s": 0.05, **(upstream or {})}, **topics})
    file = ServerFile(config.routing.servers_file) if config.routing.servers_file else None
    tls = None
    if config.tls.is_on:
        from headway.server.api.tls.server_tls import ServerTls

        tls = ServerTls(config.tls)
    router = Router(config, file, Upstream(config.upstream), tls)
    [listener] = bind_tcp("127.0.0.1", 0)
    with listener:
        serving = asyncio.create_task(router.serve([listener]))
        running = RoutedServers(router, listener.getsockname()[1], "https" if tls else "http")
        try:
            if wait:
                await running.all_healthy()
            yield running
        finally:
            router.stop(STOP_SIGNALS[0])
            router.stop(STOP_SIGNALS[0])
            await serving


async def until(condition: Callable[[], object], limit_s: float = 10) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        await asyncio.sleep(0.005)


async def raw_exchange(port: int, request: bytes) -> bytes:
    """What comes back until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 10)
    finally:
        writer.close()


def closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port
