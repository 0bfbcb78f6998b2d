"""A real router in front of small real servers, all on the test's own event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, closing
from typing import Any
from unittest.mock import patch

import aiohttp
from aiohttp import web
from ports import claimed_port

from headway.server.listen import bind_tcp
from headway.server.router import running as router_running
from headway.server.router.config import RouterConfig
from headway.server.router.running import Alone, Life
from headway.server.router.serving import Router
from headway.server.router.sources.choice import source_of
from headway.server.signals import STOP_SIGNALS

EVENT = b'data: {"choices": [{"index": 0, "delta": {"content": "word "}}]}\n\n'
DONE = b"data: [DONE]\n\n"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hello"}], "stream": True}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def echo(request: web.Request) -> web.StreamResponse:
    return web.Response(body=await request.read(), headers={"x-path": request.raw_path})


def event_then_done(gate: asyncio.Event) -> Handler:
    """A stream of two events, the second once ``gate`` is set."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        await response.write(EVENT)
        await asyncio.wait_for(gate.wait(), 120)
        await response.write(DONE)
        return response

    return answer


def begun_for_ever(first: bytes, content_type: str) -> Handler:
    """An answer that begins, and never ends."""

    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": content_type})
        await response.prepare(request)
        await response.write(first)
        await asyncio.Event().wait()
        return response

    return answer


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


@asynccontextmanager
async def raw_server(first: bytes, rest: bytes = b"", may_go_on: asyncio.Event | None = None) -> AsyncIterator[str]:
    """A server that answers with these bytes, whatever they are, and closes; ``rest`` once ``may_go_on`` is set. Its address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer):
            if (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /ping"):
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            else:
                writer.write(first)
                if may_go_on is not None:
                    await asyncio.wait_for(may_go_on.wait(), 60)
                writer.write(rest)

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class RoutedServers:
    """A running router. ``url`` is where it listens."""

    def __init__(self, router: Router, life: Life, port: int, scheme: str) -> None:
        self.router = router
        self._life = life
        self.port = port
        self.url = f"{scheme}://127.0.0.1:{port}"

    async def all_healthy(self) -> None:
        fleets = [fleet for fleet in (self.router.fleet, self.router.prefill) if fleet is not None]
        await until(lambda: all(fleet.num_healthy == len(fleet.servers) for fleet in fleets))

    def stop(self) -> None:
        """As a signal does: the second one ends the drain."""
        self._life.stop(STOP_SIGNALS[0])


@asynccontextmanager
async def routed(*urls: str, wait: bool = True, upstream: dict[str, Any] | None = None, **topics: Any) -> AsyncIterator[RoutedServers]:
    """A router for ``urls``, once all are healthy. ``topics`` are parts of RouterConfig; no servers: those of its file."""
    topics.setdefault("routing", {})
    if urls:
        topics["routing"]["servers"] = list(urls)
    config = RouterConfig.model_validate({"upstream": {"health_interval_s": 0.05, **(upstream or {})}, **topics})
    source = source_of(config)
    router = Router(config, source.listing)
    [listener] = bind_tcp("127.0.0.1", 0)
    # The process is the tests': what they leave behind must go on being collected, and found, where it was left.
    with listener, patch.object(router_running, "spare_long_lived"):
        life = Life(config, source, Alone(router, [listener]))
        serving = asyncio.create_task(life.serve([]))
        running = RoutedServers(router, life, listener.getsockname()[1], "https" if config.tls.is_on else "http")
        try:
            if wait:
                await running.all_healthy()
            yield running
        finally:
            running.stop()
            running.stop()
            await serving


async def until(condition: Callable[[], object], limit_s: float = 60) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {limit_s} s"
        await asyncio.sleep(0.005)


async def raw_exchange(port: int, request: bytes) -> bytes:
    """What comes back until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(), 60)
    finally:
        writer.close()


def closed_port() -> int:
    """At which nobody listens, nor will unasked."""
    return claimed_port()


async def events_of(request: web.Request, *, num: int = 3, end: bytes = DONE) -> web.StreamResponse:
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for _ in range(num):
        await response.write(EVENT)
    await response.write(end)
    return response


async def full(request: web.Request) -> web.StreamResponse:
    return web.json_response({"error": {"message": "full"}}, status=503, headers={"retry-after": "7"})


def breaking_after(num: int, tail: bytes = b"") -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        if num or tail:
            await response.prepare(request)
            await response.write(EVENT * num + tail)
        assert request.transport is not None
        request.transport.abort()
        return response

    return handle


async def metric(running: RoutedServers, client: aiohttp.ClientSession, start: str) -> float:
    async with client.get(f"{running.url}/metrics") as answer:
        lines = [line for line in (await answer.text()).splitlines() if line.startswith(start)]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


async def ask(running: RoutedServers, client: aiohttp.ClientSession, path: str = "/v1/completions") -> tuple[int, bytes]:
    async with client.post(running.url + path, json={"prompt": "a"}) as answer:
        return answer.status, await answer.read()
