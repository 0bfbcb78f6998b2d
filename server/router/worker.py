"""A process that serves the router's port beside others: the same application, with the leader's orders in place of signals."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

import uvloop

from headway.server.children import die_with_parent, ignore_signals
from headway.server.counts import Count, Counts
from headway.server.garbage import spare_long_lived
from headway.server.log import log_uncaught_in_threads
from headway.server.router.config import RouterConfig
from headway.server.router.logs import set_up_router_logging
from headway.server.router.serving import Router
from headway.server.router.sources.base import Listing
from headway.server.siblings.orders import BeginDrain, End, OrderReceiver

log = logging.getLogger(__name__)

Order = Listing | BeginDrain | End


@dataclass(frozen=True)
class WorkerArguments:
    """Handed over through a pipe. ``listeners``: its own, bound and not listening yet; ``directory``: where it meets the leader."""

    index: int  # 1 and above
    config: RouterConfig
    listing: Listing
    directory: Path
    listeners: list[socket.socket]


def run_worker(arguments: WorkerArguments) -> None:
    """Entry point of the process. Exit status: 0 told to end, 1 anything else."""
    ignore_signals()
    die_with_parent()
    log_uncaught_in_threads()
    status = 0
    try:
        set_up_router_logging(arguments.config, f"router-{arguments.index}")
        uvloop.new_event_loop().run_until_complete(_live(arguments))
    except Exception:  # the process edge
        log.exception("Router process %d broke", arguments.index)
        status = 1
    logging.shutdown()
    os._exit(status)  # without waiting for threads


async def _live(arguments: WorkerArguments) -> None:
    """Serves until the leader says the end. Raises what breaks before."""
    counts = Counts.join(arguments.directory, arguments.index)
    orders: OrderReceiver[Order] = OrderReceiver(arguments.directory, arguments.index, Order)
    router = Router(arguments.config, arguments.listing, counts)
    spare_long_lived()
    async with asyncio.TaskGroup() as work:  # what breaks in one of them ends all
        work.create_task(router.serve(arguments.listeners))
        await router.ready()
        counts.set(Count.IS_READY, 1)
        await _obey(router, orders)
        orders.close()
        await router.stop()


async def _obey(router: Router, orders: OrderReceiver[Order]) -> None:
    """Until told to end."""
    while True:
        match await orders.receive():
            case Listing() as listing:
                router.change_servers(listing)
            case BeginDrain():
                router.begin_drain()
            case End():
                return
