"""An API process beside the leader: the same application, with the leader's orders in place of signals and of an engine to look after."""

from __future__ import annotations

import asyncio

from headway.server.api.adapters import AdapterRegistry
from headway.server.api.app import create_app
from headway.server.api.deps import Drain, Served
from headway.server.api.http_server import HttpServer, close_after_answers
from headway.server.api.tls.server_tls import ServerTls
from headway.server.api.traces import make_tracing
from headway.server.api_processes.arguments import FollowerArguments
from headway.server.api_processes.orders import EngineEnded, FilesFound, Order, Preparing
from headway.server.api_processes.serving import hush_stages, yield_to_engine
from headway.server.counts import Count, Counts
from headway.server.engine.data_parallel.client import DataParallelClient
from headway.server.garbage import spare_long_lived
from headway.server.siblings.orders import BeginDrain, End, OrderReceiver
from headway.server.source.files import ModelFiles


async def live(arguments: FollowerArguments) -> None:
    """Serves until the leader says the end. Raises what breaks before."""
    await _Follower(arguments).live()


class _Follower:
    """Lives on one event loop."""

    def __init__(self, arguments: FollowerArguments) -> None:
        self._arguments = arguments
        config = self._config = arguments.config
        self._counts = Counts.join(arguments.directory, arguments.index)
        self._client = DataParallelClient(config, arguments.directory, self._counts, on_phase=_untold)
        self._drain = Drain(self._counts)
        self._served = Served.of(config)
        self._orders: OrderReceiver[Order] = OrderReceiver(arguments.directory, arguments.index, Order)
        loop = asyncio.get_running_loop()
        self._files: asyncio.Future[ModelFiles] = loop.create_future()
        self._engine_end: asyncio.Future[str] = loop.create_future()

    async def live(self) -> None:
        hush_stages()
        adapters = AdapterRegistry(self._config.lora, self._client, self._served.names)
        tls = ServerTls(self._config.tls) if self._config.tls.is_on else None
        tracing = make_tracing(self._config.tracing, self._arguments.telemetry)
        app = create_app(self._config, self._client, self._served, self._drain, adapters, tracing=tracing, counts=self._counts)
        server = HttpServer(app, self._config, tls)
        async with asyncio.TaskGroup() as work:  # what breaks in one of them ends all
            work.create_task(server.serve(sockets=self._arguments.listeners))
            others = [work.create_task(self.receive()), work.create_task(self._get_ready())]
            await self._obey(server)
            for task in others:
                task.cancel()
            self._orders.close()
            self._client.close()
            server.should_exit = True

    async def receive(self) -> None:
        """Until an engine has ended. The leader says which, in words that hold for all of them."""
        await self._client.run([asyncio.shield(self._engine_end) for _ in self._client.engines])

    async def _get_ready(self) -> None:
        files = await self._files
        await self._served.load(self._config, files, self._arguments.cache_dir)
        spare_long_lived()
        await self._client.became_ready.wait()
        info = self._client.info
        assert info is not None
        self._served.set_ready(info)
        self._counts.set(Count.IS_READY, 1)
        if info.device.startswith("cpu"):
            yield_to_engine(self._arguments.niceness)

    async def _obey(self, server: HttpServer) -> None:
        """Until told to end."""
        while True:
            match await self._orders.receive():
                case Preparing(phase=phase):
                    self._client.set_phase(phase)
                case FilesFound(files=files):
                    self._files.set_result(files)
                case EngineEnded(cause=cause):
                    if not self._engine_end.done():  # else the engine's own last words were here first
                        self._engine_end.set_result(cause)
                case BeginDrain():
                    self._drain.begin()
                    close_after_answers(server)
                case End():
                    return


def _untold(phase: str, since: float) -> None:
    """The phases of the start are in the leader's log."""
