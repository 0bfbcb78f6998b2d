"""The worker's side of the NixlConnector: a thread beside a rank's steps, with its agent and its end of the side channel."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from headway.server.engine.kv.transfer.nixl.keeper import Keeper, Own
from headway.server.engine.kv.transfer.nixl.layer_progress import DeviceProgress, HostProgress
from headway.server.engine.kv.transfer.nixl.offers import Offers
from headway.server.engine.kv.transfer.nixl.reader import Reader
from headway.server.engine.kv.transfer.nixl.requirements import listener_at
from headway.server.engine.kv.transfer.orders import Computing, Fetch, MoreOffered, Offer, Order, Report, Withdraw
from headway.server.layers.forward import LayerWatcher


@dataclass(frozen=True, slots=True)
class Listening:
    """Where this rank keeps KV for others, and how long at most."""

    host: str
    port: int
    keep_s: float


class NixlWorker:
    """See WorkerSide."""

    def __init__(self, own: Own, listening: Listening | None, *, compares: bool) -> None:
        """``listening`` None: nothing is kept here. Raises ConfigError where its address is not to be had."""
        self._own = own
        make_progress = DeviceProgress if own.pages.memory == "VRAM" else HostProgress
        self._offers = Offers(own.pages.num_layers, make_progress)
        self._reports: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._listener = None if listening is None else listener_at(listening.host, listening.port)
        self._keep_s = 0.0 if listening is None else listening.keep_s
        self._loop = asyncio.new_event_loop()
        self._is_over = asyncio.Event()
        self._keeper = Keeper(own, self._offers, self._reports.put, self._keep_s)
        self._reader = Reader(own, self._reports.put, compares=compares)
        self._tasks: set[asyncio.Task[None]] = set()
        self._thread = threading.Thread(target=self._run, daemon=True, name="kv-transfer")
        self._thread.start()

    def order(self, orders: Sequence[Order]) -> None:
        has_changed = False
        for order in orders:
            match order:
                case Offer():
                    self._offers.add(order)
                    has_changed = True
                case MoreOffered():
                    self._offers.extend(order)
                    has_changed = True
                case Computing():
                    self._offers.compute(order)
                case Withdraw(token=token):
                    self._offers.withdraw(token)
                    has_changed = True
                case Fetch():
                    self._loop.call_soon_threadsafe(self._begin, order, self._own.pages.mark())
        if has_changed:
            self._loop.call_soon_threadsafe(self._keeper.tell_readers)

    def begin_step(self) -> LayerWatcher | None:
        progress = self._offers.begin_step()
        if progress is not None:
            self._loop.call_soon_threadsafe(self._keeper.tell_readers)
        return progress

    def take_reports(self) -> list[Report]:
        return [self._reports.get() for _ in range(self._reports.qsize())]

    def close(self) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._is_over.set)
            self._thread.join(timeout=2)

    def _begin(self, order: Fetch, mark: torch.cuda.Event | None) -> None:
        task = self._loop.create_task(self._reader.fetch(order, mark))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        """Until it is over; fetches and conversations that go on then are cancelled."""
        if self._listener is None:
            await self._is_over.wait()
            return
        server = await asyncio.start_server(self._keeper.serve, sock=self._listener)
        await self._is_over.wait()
        server.close()
