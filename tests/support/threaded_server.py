"""An ASGI application under the local runtime's own server, on a loopback port, in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import uvloop

from headway.container.local.serving import LocalServer, bind


class _Server(LocalServer):
    """Told to end instead of looking every 0.1 s."""

    async def main_loop(self) -> None:
        self.over = asyncio.Event()
        await self.over.wait()


class ThreadedServer:
    """``app`` is one, or makes one inside of the loop that serves it: an asynchronous context manager."""

    def __init__(self, app: Any = None, made: Callable[[], AbstractAsyncContextManager[Any]] | None = None) -> None:
        self._made = made or (lambda: _ready(app))
        self._listener = bind("127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> ThreadedServer:
        self._thread.start()
        assert self._started.wait(60), "the server did not start"
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._server.over.set)
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        async with self._made() as app:
            self._server = _Server(app)
            serving = asyncio.create_task(self._server.serve(sockets=[self._listener]))
            while not hasattr(self._server, "over") and not serving.done():
                await asyncio.sleep(0)
            self._started.set()
            await serving


@contextlib.asynccontextmanager
async def _ready(app: Any) -> AsyncIterator[Any]:
    yield app
